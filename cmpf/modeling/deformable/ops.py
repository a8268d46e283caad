# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Multi-scale deformable attention (Deformable DETR, arXiv 2010.04159), as batched bilinear sampling by PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor
from torch.nn import functional as F

from cmpf.modeling.deformable.rows import reads_rows, rows_attention

AttentionFunction = Callable[[Tensor, Sequence[tuple[int, int]], Tensor, Tensor], Tensor]


def deformable_attention(
    value_BSMD: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Weighted sum of values read bilinearly at given places of several maps.

    Args:
        value_BSMD: (B, S, M, D) values of M heads; the maps are flattened row by row, one after another.
        shapes: (h, w) of the L maps; S is the sum of h * w.
        locations: (B, Q, M, L, P, 2) places as (x, y), 0..1 from the left or upper to the right or lower
            border of the map; what lies outside reads zeros.
        weights: (B, Q, M, L, P).
    Returns:
        (B, Q, M * D).
    """
    if reads_rows(shapes, value_BSMD, locations, weights):
        return rows_attention(value_BSMD, shapes, locations, weights)
    return grid_sample_attention(value_BSMD, shapes, locations, weights)


def grid_sample_attention(
    value_BSMD: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """`deformable_attention` on any device, with gradients."""
    B, S, M, D = value_BSMD.shape
    Q, L, P = locations.shape[1], locations.shape[3], locations.shape[4]
    # Heads are folded into the batch. One point is read at a time: what all points of a level read together
    # does not fit the CPU's caches (measured at inference: half as much time again, and more).
    maps = value_BSMD.permute(0, 2, 3, 1).reshape(B * M, D, S)
    grids = (2 * locations - 1).permute(3, 4, 0, 2, 1, 5).reshape(L, P, B * M, 1, Q, 2)
    point_weights = weights.permute(3, 4, 0, 2, 1).reshape(L, P, B * M, 1, Q)
    total = maps.new_zeros(B * M, D, Q)
    start = 0
    for level, (h, w) in enumerate(shapes):
        level_map = maps[:, :, start : start + h * w].view(B * M, D, h, w)
        for grid, weight in zip(grids[level], point_weights[level], strict=True):
            sampled = F.grid_sample(
                level_map, grid, mode="bilinear", padding_mode="zeros", align_corners=False
            )
            total.addcmul_(sampled[:, :, 0], weight)
        start += h * w
    return total.view(B, M * D, Q).transpose(1, 2)
