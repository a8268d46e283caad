# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Multi-scale deformable attention (Deformable DETR, arXiv 2010.04159) by PyTorch operators.

CPU inference uses `embedding_bag` instead of `grid_sample`, which reads one channel at a time with a large stride. A
row of the embedding table holds the contiguous D values of one head at one cell, and each output is the weighted sum of
the rows at the four corners of all points on all levels. Each level is padded with zeros, so that samples outside it
need no bounds check.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

AttentionFunction = Callable[[Tensor, Sequence[tuple[int, int]], Tensor, Tensor], Tensor]

CORNERS = 4
# Points that embedding_attention computes at a time. A layer at 800 x 1066 on one core takes 50 ms for 2 ** 15, 45 ms
# for 2 ** 17 and 71 ms for 2 ** 19 points, and 256 ms with grid_sample.
MAX_POINTS = 1 << 17
MAX_ROWS = 1 << 24  # row indices are computed in float32, exact up to here
EMBEDDING_DTYPES = (torch.float32, torch.float64)


def deformable_attention(
    value_BSMD: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Weighted sum of values sampled bilinearly from several maps.

    Args:
        value_BSMD: (B, S, M, D) values of M heads; the maps are flattened row by row and concatenated.
        shapes: (h, w) of the L maps; S is the sum of h * w.
        locations: (B, Q, M, L, P, 2) as (x, y), from 0 at the left or upper to 1 at the right or lower border of the
            map; zeros are sampled outside.
        weights: (B, Q, M, L, P) attention weights.
    Returns:
        (B, Q, M * D).
    """
    if torch.compiler.is_exporting():
        return gather_attention(value_BSMD, shapes, locations, weights)
    if _supports_embedding(shapes, value_BSMD, locations, weights):
        return embedding_attention(value_BSMD, shapes, locations, weights)
    return grid_sample_attention(value_BSMD, shapes, locations, weights)


def grid_sample_attention(
    value_BSMD: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """`deformable_attention` by grid_sample: on any device, with gradients."""
    B, S, M, D = value_BSMD.shape
    Q, L, P = locations.shape[1], locations.shape[3], locations.shape[4]
    # Heads are folded into the batch. Points are sampled one at a time: the samples of all points of a level do not fit
    # in the CPU's caches, and inference takes more than 1.5 times as long.
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


def gather_attention(
    value_BSMD: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """`deformable_attention` by index_select, for exported programs.

    Runtimes differ in their definition of grid_sample, and TensorRT has fused it incorrectly with its neighbors.
    """
    B, S, M, D = value_BSMD.shape
    table = value_BSMD.reshape(B * S * M, D)
    image = torch.arange(B, device=table.device)[:, None, None, None] * S
    head = torch.arange(M, device=table.device)[:, None]
    total = torch.zeros_like(weights[..., 0, :1]).expand(-1, -1, -1, D)
    start = 0
    for level, (h, w) in enumerate(shapes):
        # In cells, clamped: locations more than one cell outside sample zeros anyway.
        x = (locations[..., level, :, 0] * w - 0.5).clamp(-1, w)
        y = (locations[..., level, :, 1] * h - 0.5).clamp(-1, h)
        left, top = x.floor(), y.floor()
        for column, row in ((left, top), (left + 1, top), (left, top + 1), (left + 1, top + 1)):
            inside = (column >= 0) & (column < w) & (row >= 0) & (row < h)
            weight = weights[..., level, :] * (1 - (x - column).abs()) * (1 - (y - row).abs()) * inside
            cell = row.clamp(0, h - 1).long() * w + column.clamp(0, w - 1).long() + start
            sampled = table.index_select(0, ((image + cell) * M + head).flatten())
            total = total + (weight[..., None] * sampled.view(*weight.shape, D)).sum(dim=-2)
        start += h * w
    return total.flatten(2)


def embedding_attention(
    value_BSMD: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """`deformable_attention` by embedding_bag, for CPU inference; NaN locations sample zeros."""
    B, _, M, D = value_BSMD.shape
    Q, L, P = locations.shape[1], locations.shape[3], locations.shape[4]
    table = _embedding_table(value_BSMD, shapes)
    output = value_BSMD.new_empty(B, Q, M * D)
    num_queries = max(1, MAX_POINTS // (M * L * P))
    num_images = max(1, num_queries // max(1, Q))
    for b in range(0, B, num_images):
        images = slice(b, b + num_images)
        tables = table[images]
        for q in range(0, Q, num_queries):
            part = images, slice(q, q + num_queries)
            rows, corner_weights = _corners(
                locations[part].flatten(0, 1), weights[part].flatten(0, 1), shapes
            )
            if len(tables) > 1:
                first_row = torch.arange(len(tables), dtype=rows.dtype, device="cpu") * tables.shape[1]
                rows.view(len(tables), -1).add_(first_row[:, None])
            sums = F.embedding_bag(rows, tables.flatten(0, 1), per_sample_weights=corner_weights, mode="sum")
            output[part] = sums.view(len(tables), -1, M * D)
    return output


def _supports_embedding(shapes: Sequence[tuple[int, int]], value_BSMD: Tensor, *others: Tensor) -> bool:
    """Whether `embedding_attention` can be used: on a CPU, without gradients, outside torch.compile."""
    tensors = (value_BSMD, *others)
    if torch.compiler.is_compiling():
        return False
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return False
    if any(tensor.device.type != "cpu" or tensor.dtype != value_BSMD.dtype for tensor in tensors):
        return False
    rows = _table_layout(tuple(shapes)).num_cells * value_BSMD.shape[2]
    return value_BSMD.dtype in EMBEDDING_DTYPES and rows < MAX_ROWS


class _TableLayout(NamedTuple):
    """Layout of the embedding table.

    starts: first cell of each padded level.
    num_cells: cells of all levels, including padding.
    """

    starts: tuple[int, ...]
    num_cells: int


@lru_cache(maxsize=256)
def _table_layout(shapes: tuple[tuple[int, int], ...]) -> _TableLayout:
    starts, num_cells = [], 0
    for h, w in shapes:
        starts.append(num_cells)
        num_cells += (h + 2) * (w + 2)
    # A location in the lower padding also reads, with weight zero, corners in the line below it.
    return _TableLayout(tuple(starts), num_cells + max(w for _, w in shapes) + 3)


def _embedding_table(value_BSMD: Tensor, shapes: Sequence[tuple[int, int]]) -> Tensor:
    """(B, cells * M, D): values of the levels, each padded with one cell of zeros on every side."""
    B, _, M, D = value_BSMD.shape
    layout = _table_layout(tuple(shapes))
    table = value_BSMD.new_zeros(B, layout.num_cells, M, D)
    first = 0
    for (h, w), start in zip(shapes, layout.starts, strict=True):
        level = table[:, start : start + (h + 2) * (w + 2)].view(B, h + 2, w + 2, M, D)
        level[:, 1:-1, 1:-1] = value_BSMD[:, first : first + h * w].view(B, h, w, M, D)
        first += h * w
    return table.view(B, layout.num_cells * M, D)


class _LevelConstants(NamedTuple):
    """Constants of the M * L * P points of a query, in the dtype of the weights.

    half, zero: 0.5 and 0.
    width, height: size of the point's level.
    last_column, last_line: last column and line of the padded level.
    first_row: row of the table for the point's head at the padded level's first cell.
    line_stride: rows of the table from one line of the padded level to the next.
    line_stride_int: (M, L * P) int32, the same.
    """

    half: Tensor
    zero: Tensor
    width: Tensor
    height: Tensor
    last_column: Tensor
    last_line: Tensor
    first_row: Tensor
    line_stride: Tensor
    line_stride_int: Tensor


@lru_cache(maxsize=64)
def _level_constants(
    shapes: tuple[tuple[int, int], ...], heads: int, points: int, dtype: torch.dtype
) -> _LevelConstants:
    with torch.inference_mode(False):  # cached inference tensors could not be used in training
        sizes = torch.tensor(shapes, dtype=dtype, device="cpu")
        starts = torch.tensor(_table_layout(shapes).starts, dtype=dtype, device="cpu")

        def per_point(per_level: Tensor) -> Tensor:
            return per_level[None, :, None].expand(heads, -1, points).flatten()

        height, width = (per_point(side) for side in sizes.unbind(1))
        head = torch.arange(heads, dtype=dtype, device="cpu").repeat_interleave(len(shapes) * points)
        line_stride = (width + 2) * heads
        return _LevelConstants(
            half=torch.full_like(width, 0.5),
            zero=torch.zeros_like(width),
            width=width,
            height=height,
            last_column=width + 1,
            last_line=height + 1,
            first_row=per_point(starts) * heads + head,
            line_stride=line_stride,
            line_stride_int=line_stride.view(heads, -1).int(),
        )


def _corners(locations: Tensor, weights: Tensor, shapes: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """Rows of the embedding table and their weights, for the corners of all points of a query and head.

    Args:
        locations: (Q, M, L, P, 2).
        weights: (Q, M, L, P).
    Returns:
        Rows, int32, and weights, both (Q * M, 4 * L * P).
    """
    Q, M, L, P = weights.shape
    constants = _level_constants(tuple(shapes), M, P, weights.dtype)
    x = _to_cells(locations[..., 0], constants.width, constants.last_column, constants)
    y = _to_cells(locations[..., 1], constants.height, constants.last_line, constants)
    left, top = x.floor(), y.floor()
    right_weight, bottom_weight = x.sub_(left).view(Q, M, -1), y.sub_(top).view(Q, M, -1)
    row = left.mul_(M).addcmul_(top, constants.line_stride).add_(constants.first_row).view(Q, M, -1).int()
    rows = row.new_empty(Q, M, CORNERS, L * P)
    rows[:, :, 0] = row
    torch.add(row, M, out=rows[:, :, 1])
    row += constants.line_stride_int
    rows[:, :, 2] = row
    torch.add(row, M, out=rows[:, :, 3])
    corner_weights = weights.new_empty(Q, M, CORNERS, L * P)
    weights = weights.reshape(Q, M, -1)
    lower = weights * bottom_weight
    upper = weights - lower
    torch.sub(upper, torch.mul(upper, right_weight, out=corner_weights[:, :, 1]), out=corner_weights[:, :, 0])
    torch.sub(lower, torch.mul(lower, right_weight, out=corner_weights[:, :, 3]), out=corner_weights[:, :, 2])
    return rows.view(Q * M, -1), corner_weights.view(Q * M, -1)


def _to_cells(axis: Tensor, size: Tensor, last: Tensor, constants: _LevelConstants) -> Tensor:
    """(Q, M * L * P) locations in cells of the padded level, 0 at the first cell's center, clamped to its border."""
    cells = torch.addcmul(constants.half, axis.reshape(len(axis), -1), size)
    return cells.nan_to_num_(0.0).clamp_(constants.zero, last)
