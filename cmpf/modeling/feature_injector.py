# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Feature Injector: SAM's spatial features enter the tokens that the queries read."""

from __future__ import annotations

from torch import Tensor, nn

from cmpf.modeling.layers import AttentionLayer, conv_xavier


class FeatureInjector(nn.Module):
    """CLIP's tokens of one level, by default of stride 32, read SAM's features (paper: Feature Injector).

    Args:
        dim: width of the tokens. heads: of the attention.
        in_channels: channels of SAM's features; a 1x1 convolution brings them to dim where they differ.
        keep_positions: whether the injected keys carry sine positions. In the published system they do not.
    """

    def __init__(self, *, dim: int, heads: int, in_channels: int, keep_positions: bool) -> None:
        super().__init__()
        self.input_projection = nn.Identity() if in_channels == dim else conv_xavier(in_channels, dim)
        self.attention = AttentionLayer(dim=dim, heads=heads)
        self.keep_positions = keep_positions

    def forward(
        self, clip_BLD: Tensor, positions_1LD: Tensor, sam_BChw: Tensor, level_embedding_D: Tensor
    ) -> tuple[Tensor, Tensor]:
        """
        Args:
            clip_BLD: CLIP's tokens of the level, level embedding added.
            positions_1LD: their sine positions.
            sam_BChw: SAM's features at the size of that level's map, h * w = L.
            level_embedding_D: the embedding of that level.
        Returns:
            Keys and values (B, L, D) for the queries' masked cross-attention.
        """
        sam_BLD = self.input_projection(sam_BChw).flatten(2).transpose(1, 2) + level_embedding_D
        values = self.attention(
            clip_BLD, positions_BQD=positions_1LD, keys_BLD=sam_BLD + positions_1LD, values_BLD=sam_BLD
        )
        return (values + positions_1LD if self.keep_positions else values), values
