# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Multi-scale deformable attention (Deformable DETR, arXiv 2010.04159), as batched bilinear sampling by PyTorch.

On a CPU in inference it is weighted sums of rows of one table, which holds all levels. grid_sample reads a channel at a
time, far apart in memory. There a row is what a head has at a cell, numbers that lie next to each other, and a result
is one sum over the rows at the four corners of all points of all levels (embedding_bag). Levels stand in the table
inside a border of zeros, so that what lies outside needs no test.
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
# Points at work at one time. A layer at 800 x 1066, one core, milliseconds: 2 ** 15 50, 2 ** 17 45, 2 ** 19 71, and by
# grid_sample 256.
POINTS = 1 << 17
EXACT = 1 << 24  # rows are counted in float32
TYPES = (torch.float32, torch.float64)


def deformable_attention(
    value_BSMD: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Weighted sum of values read bilinearly at given locations of several maps.

    Args:
        value_BSMD: (B, S, M, D) values of M heads; the maps are flattened row by row, one after another.
        shapes: (h, w) of the L maps; S is the sum of h * w.
        locations: (B, Q, M, L, P, 2) as (x, y), 0..1 from the left or upper to the right or lower
            border of the map; what lies outside reads zeros.
        weights: (B, Q, M, L, P).
    Returns:
        (B, Q, M * D).
    """
    if torch.compiler.is_exporting():
        return gather_attention(value_BSMD, shapes, locations, weights)
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


def gather_attention(
    value_BSMD: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """`deformable_attention` of plain gathers, for exported programs: runtimes differ in what grid_sample means, and
    TensorRT has fused it with its neighbors into other results."""
    B, S, M, D = value_BSMD.shape
    table = value_BSMD.reshape(B * S * M, D)
    image = torch.arange(B, device=table.device)[:, None, None, None] * S
    head = torch.arange(M, device=table.device)[:, None]
    total = torch.zeros_like(weights[..., 0, :1]).expand(-1, -1, -1, D)
    start = 0
    for level, (h, w) in enumerate(shapes):
        # In cells; what lies outside by more than one reads zeros wherever it is.
        x = (locations[..., level, :, 0] * w - 0.5).clamp(-1, w)
        y = (locations[..., level, :, 1] * h - 0.5).clamp(-1, h)
        left, top = x.floor(), y.floor()
        for column, row in ((left, top), (left + 1, top), (left, top + 1), (left + 1, top + 1)):
            inside = (column >= 0) & (column < w) & (row >= 0) & (row < h)
            share = weights[..., level, :] * (1 - (x - column).abs()) * (1 - (y - row).abs()) * inside
            place = row.clamp(0, h - 1).long() * w + column.clamp(0, w - 1).long() + start
            read = table.index_select(0, ((image + place) * M + head).flatten())
            total = total + (share[..., None] * read.view(*share.shape, D)).sum(dim=-2)
        start += h * w
    return total.flatten(2)


def reads_rows(shapes: Sequence[tuple[int, int]], value_BSMD: Tensor, *others: Tensor) -> bool:
    """Whether `rows_attention` can take grid_sample's place: on a CPU, with nothing to differentiate or to trace."""
    tensors = (value_BSMD, *others)
    if torch.compiler.is_compiling():
        return False
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return False
    if any(tensor.device.type != "cpu" or tensor.dtype != value_BSMD.dtype for tensor in tensors):
        return False
    return value_BSMD.dtype in TYPES and _layout(tuple(shapes)).rows * value_BSMD.shape[2] < EXACT


def rows_attention(
    value_BSMD: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """What `deformable_attention` computes, up to rounding; a location that is no number reads zeros."""
    B, _, M, D = value_BSMD.shape
    Q, L, P = locations.shape[1], locations.shape[3], locations.shape[4]
    table = _table(value_BSMD, shapes)
    output = value_BSMD.new_empty(B, Q, M * D)
    queries = max(1, POINTS // (M * L * P))
    images = max(1, queries // max(1, Q))  # small ones together
    for b in range(0, B, images):
        some = table[b : b + images]
        for q in range(0, Q, queries):
            part = slice(b, b + images), slice(q, q + queries)
            rows, shares = _corners(locations[part].flatten(0, 1), weights[part].flatten(0, 1), shapes)
            if len(some) > 1:
                first = torch.arange(len(some), dtype=rows.dtype, device="cpu") * some.shape[1]
                rows.view(len(some), -1).add_(first[:, None])
            read = F.embedding_bag(rows, some.flatten(0, 1), per_sample_weights=shares, mode="sum")
            output[part] = read.view(len(some), -1, M * D)
    return output


class _Layout(NamedTuple):
    """Where levels stand in the table. starts: first cell of each; rows: cells of all, with what is read beyond."""

    starts: tuple[int, ...]
    rows: int


@lru_cache(maxsize=256)
def _layout(shapes: tuple[tuple[int, int], ...]) -> _Layout:
    starts, rows = [], 0
    for h, w in shapes:
        starts.append(rows)
        rows += (h + 2) * (w + 2)
    # A place in the border below has, with a share of zero, corners in the line below that.
    return _Layout(tuple(starts), rows + max(w for _, w in shapes) + 3)


def _table(value_BSMD: Tensor, shapes: Sequence[tuple[int, int]]) -> Tensor:
    """(B, cells * M, D): the levels, each inside a border of zeros one cell wide."""
    B, _, M, D = value_BSMD.shape
    layout = _layout(tuple(shapes))
    table = value_BSMD.new_zeros(B, layout.rows, M, D)
    first = 0
    for (h, w), start in zip(shapes, layout.starts, strict=True):
        level = table[:, start : start + (h + 2) * (w + 2)].view(B, h + 2, w + 2, M, D)
        level[:, 1:-1, 1:-1] = value_BSMD[:, first : first + h * w].view(B, h, w, M, D)
        first += h * w
    return table.view(B, layout.rows * M, D)


class _Constants(NamedTuple):
    """For each of the M * L * P points of a query: its level's size, its farthest cell, and how rows are counted."""

    half: Tensor
    zero: Tensor
    width: Tensor
    height: Tensor
    last_column: Tensor
    last_line: Tensor
    start: Tensor
    line: Tensor
    line_rows: Tensor


@lru_cache(maxsize=64)
def _constants(
    shapes: tuple[tuple[int, int], ...], heads: int, points: int, dtype: torch.dtype
) -> _Constants:
    with torch.inference_mode(False):  # made inside a prediction it would serve no other use
        sizes = torch.tensor(shapes, dtype=dtype, device="cpu")
        starts = torch.tensor(_layout(shapes).starts, dtype=dtype, device="cpu")

        def each(of_level: Tensor) -> Tensor:
            return of_level[None, :, None].expand(heads, -1, points).flatten()

        height, width = (each(side) for side in sizes.unbind(1))
        head = torch.arange(heads, dtype=dtype, device="cpu").repeat_interleave(len(shapes) * points)
        line = (width + 2) * heads
        return _Constants(
            half=torch.full_like(width, 0.5),
            zero=torch.zeros_like(width),
            width=width,
            height=height,
            last_column=width + 1,
            last_line=height + 1,
            start=each(starts) * heads + head,
            line=line,
            line_rows=line.view(heads, -1).int(),
        )


def _corners(locations: Tensor, weights: Tensor, shapes: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """Rows of the table and the share of each, (Q * M, 4 * L * P), for locations (Q, M, L, P, 2) and weights."""
    Q, M, L, P = weights.shape
    known = _constants(tuple(shapes), M, P, weights.dtype)
    x = _cells(locations[..., 0], known.width, known.last_column, known)
    y = _cells(locations[..., 1], known.height, known.last_line, known)
    left, top = x.floor(), y.floor()
    to_right, to_bottom = x.sub_(left).view(Q, M, -1), y.sub_(top).view(Q, M, -1)
    row = left.mul_(M).addcmul_(top, known.line).add_(known.start).view(Q, M, -1).int()
    rows = row.new_empty(Q, M, CORNERS, L * P)
    rows[:, :, 0] = row
    torch.add(row, M, out=rows[:, :, 1])
    row += known.line_rows
    rows[:, :, 2] = row
    torch.add(row, M, out=rows[:, :, 3])
    shares = weights.new_empty(Q, M, CORNERS, L * P)
    weights = weights.reshape(Q, M, -1)
    below = weights * to_bottom
    above = weights - below
    torch.sub(above, torch.mul(above, to_right, out=shares[:, :, 1]), out=shares[:, :, 0])
    torch.sub(below, torch.mul(below, to_right, out=shares[:, :, 3]), out=shares[:, :, 2])
    return rows.view(Q * M, -1), shares.view(Q * M, -1)


def _cells(axis: Tensor, size: Tensor, last: Tensor, known: _Constants) -> Tensor:
    """(Q, M * L * P) locations in cells, 0 at the center of the border's first cell; none is beyond the border."""
    cells = torch.addcmul(known.half, axis.reshape(len(axis), -1), size)
    return cells.nan_to_num_(0.0).clamp_(known.zero, last)
