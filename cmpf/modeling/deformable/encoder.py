# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Transformer encoder with multi-scale deformable self-attention over feature maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cmpf.common.tensors import device_constant
from cmpf.modeling.deformable.module import MultiScaleDeformableAttention
from cmpf.modeling.deformable.ops import AttentionFunction, deformable_attention
from cmpf.modeling.layers import FeedForwardLayer, sine_position_encoding


class DeformableEncoderLayer(nn.Module):
    """Deformable self-attention with residual and LayerNorm, then a feed-forward layer."""

    def __init__(
        self,
        *,
        dim: int,
        heads: int,
        points: int,
        levels: int,
        dim_feedforward: int,
        flat_levels: int = 0,
        function: AttentionFunction = deformable_attention,
    ) -> None:
        super().__init__()
        self.attention = MultiScaleDeformableAttention(
            dim=dim, heads=heads, points=points, levels=levels, flat_levels=flat_levels, function=function
        )
        self.norm = nn.LayerNorm(dim)
        self.feed_forward = FeedForwardLayer(dim=dim, hidden_dim=dim_feedforward)

    def forward(
        self,
        x_BSD: Tensor,
        positions_1SD: Tensor,
        references_1S2: Tensor,
        shapes: Sequence[tuple[int, int]],
        sizes_L2: Tensor,
    ) -> Tensor:
        """
        Args:
            x_BSD: flattened levels.
            positions_1SD: position encodings, added to the queries only.
            references_1S2: reference points (x, y) in 0..1.
            shapes: (h, w) of the levels.
            sizes_L2: (w, h) of the levels, as a float tensor.
        Returns:
            (B, S, D).
        """
        attended = self.attention(x_BSD + positions_1SD, references_1S2, x_BSD, shapes, sizes_L2)
        output: Tensor = self.feed_forward(self.norm(x_BSD + attended))
        return output


class DeformableEncoder(nn.Module):
    """Self-attention over the cells of all levels (Mask2Former's pixel decoder; paper Sec. 3).

    Args:
        dim: width, a multiple of heads and of 4.
        heads, points, dim_feedforward: settings of each layer.
        levels: number of feature maps.
        layers: number of layers.
        flat_levels: see MultiScaleDeformableAttention; if > 0, also the number of level embeddings, of which only the
            first is used.
        function: implementation of the attention, see choose_deformable_attention.
        gradient_checkpointing: whether training keeps only the inputs of each layer, and recomputes its activations in
            the backward pass.
    """

    def __init__(
        self,
        *,
        dim: int,
        heads: int,
        points: int,
        levels: int,
        layers: int,
        dim_feedforward: int,
        flat_levels: int = 0,
        function: AttentionFunction = deformable_attention,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.gradient_checkpointing = gradient_checkpointing
        self.level_embedding = nn.Parameter(torch.randn(flat_levels or levels, dim))
        self.layers = nn.ModuleList(
            DeformableEncoderLayer(
                dim=dim,
                heads=heads,
                points=points,
                levels=levels,
                dim_feedforward=dim_feedforward,
                flat_levels=flat_levels,
                function=function,
            )
            for _ in range(layers)
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """
        Args:
            maps: one (B, D, h, w) map per level.
        Returns:
            Maps of the same shapes.
        """
        shapes = [(m.shape[-2], m.shape[-1]) for m in maps]
        x = torch.cat([m.flatten(2) for m in maps], dim=2).transpose(1, 2)
        positions = self._positions(shapes, x)
        references = torch.cat([pixel_centers(h, w, device=x.device, dtype=x.dtype) for h, w in shapes])[None]
        sizes = device_constant(tuple((w, h) for h, w in shapes), dtype=x.dtype, device=x.device)
        for layer in self.layers:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                # Layers have no dropout, so the state of the random generators need not be kept.
                x = checkpoint(
                    layer, x, positions, references, shapes, sizes,
                    use_reentrant=False, preserve_rng_state=False,
                )  # fmt: skip
            else:
                x = layer(x, positions, references, shapes, sizes)
        parts = torch.split(x.transpose(1, 2), [h * w for h, w in shapes], dim=2)
        return [part.reshape(*part.shape[:2], *shape) for part, shape in zip(parts, shapes, strict=True)]

    def _positions(self, shapes: Sequence[tuple[int, int]], like: Tensor) -> Tensor:
        """(1, S, D): sine position encoding of each cell plus the embedding of its level."""
        positions = [
            sine_position_encoding(h, w, like.shape[-1], device=like.device, dtype=like.dtype)
            .flatten(2)
            .transpose(1, 2)
            + self.level_embedding[level]
            for level, (h, w) in enumerate(shapes)
        ]
        return torch.cat(positions, dim=1)


def pixel_centers(
    height: int, width: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Tensor:
    """(height * width, 2) centers (x, y) of a map's cells, row by row, relative to its size (0..1)."""
    y = (torch.arange(height, device=device, dtype=dtype) + 0.5) / height
    x = (torch.arange(width, device=device, dtype=dtype) + 0.5) / width
    return torch.stack([x.expand(height, -1), y[:, None].expand(-1, width)], dim=-1).flatten(0, 1)
