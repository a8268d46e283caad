# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Content-dependent transfer: adapts text embeddings to the image (MAFT+, ECCV 2024)."""

from __future__ import annotations

from torch import Tensor, nn

from cmpf.modeling.layers import MultiheadAttention, sine_position_encoding


class TextTransfer(nn.Module):
    """Adds the output of cross-attention from text embeddings to CLIP's projected feature map of an image.

    Args:
        embed_dim: width E of CLIP's joint space, a multiple of 4 and of heads.
        heads: number of attention heads.
        post_norm: norm(text + change) instead of text + norm(change).
    """

    def __init__(self, *, embed_dim: int, heads: int, post_norm: bool) -> None:
        super().__init__()
        self.post_norm = post_norm
        self.attention = MultiheadAttention(dim=embed_dim, heads=heads)
        self.mlp = nn.Linear(embed_dim, embed_dim)
        self.norm = nn.LayerNorm(embed_dim)
        nn.init.zeros_(self.mlp.weight)  # training starts from the unchanged text embeddings
        nn.init.zeros_(self.mlp.bias)

    def forward(self, text_TE: Tensor, projected_BEhw: Tensor) -> Tensor:
        """
        Args:
            text_TE: one row per synonym; rows do not attend to each other.
            projected_BEhw: CLIP's feature map projected to the joint space, see CLIP.project_map.
        Returns:
            (B, T, E), not normalized.
        """
        E, h, w = projected_BEhw.shape[-3:]
        positions = sine_position_encoding(h, w, E, device=projected_BEhw.device, dtype=projected_BEhw.dtype)
        keys, values = (x.flatten(2).transpose(1, 2) for x in (projected_BEhw + positions, projected_BEhw))
        change = self.mlp(self.attention(text_TE[None], keys, values))
        text: Tensor = self.norm(text_TE + change) if self.post_norm else text_TE + self.norm(change)
        return text
