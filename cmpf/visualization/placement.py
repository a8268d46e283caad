# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Finds a place for the label of each region, so that labels are near what they name and hide little."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Squares = npt.NDArray[np.uint16] | npt.NDArray[np.int32]
Rect = tuple[float, float, float, float]  # x0, y0, x1, y1
Point = tuple[float, float]  # x, y
Box = tuple[slice, slice]  # rows and columns of cells

_GRID_SIDE = 256  # masks are thinned to about this many cells per side; places need no more
_INSIDE_TRIES = 8
_MARGIN = 3.0  # canvas pixels between labels, and to the image's edge
_MIN_AREA_SHARE = 0.12  # of the label's own area; smaller regions would only be hidden or crowd others out
# What a place costs, in units of "a whole region is hidden":
_OUTSIDE_COST = 0.4  # a label in the region that lies wholly on others, where it could be taken for theirs
_LEADER_COST = 0.3  # a label beside the region, tied to it by a line
_LENGTH_COST = 1.2  # a line as long as the side of a square canvas
_ORDER_COST = 0.01  # a later one of equally deep points
_DEPTH_COST = 0.2  # a place at the region's border instead of its visual center


@dataclass(frozen=True)
class LabelRequest:
    """A label that wants a place: region (H, W) on the canvas, and size (width, height) in canvas pixels.

    step: 1, or that of `grid_step`, by which the mask is thinned already.
    """

    mask: Mask
    size: tuple[float, float]
    step: int = 1


@dataclass(frozen=True)
class Placement:
    """Where a label goes, and the point of its region where a leader line should end, if it needs one."""

    rect: Rect
    leader: Point | None


class _Grid:
    """Sums of a field (h, w) over rectangles, in constant time.

    step: canvas pixels of a cell. first: row and column of the field's first cell; outside of it there is nothing.
    """

    def __init__(self, field: npt.NDArray[Any], step: int, first: tuple[int, int] = (0, 0)) -> None:
        height, width = field.shape
        kind = np.float64 if field.dtype == np.float64 else np.int32  # flags are counted
        self.sums = np.zeros((height + 1, width + 1), dtype=kind)
        inner = self.sums[1:, 1:]
        np.cumsum(field, axis=0, out=inner)
        np.cumsum(inner, axis=1, out=inner)
        self.step, self.first = step, first

    def total(self, rect: Rect) -> float:
        """Sum over the cells under a rectangle of canvas pixels."""
        height, width = self.sums.shape
        top, left = self.first
        x0 = min(max(round(rect[0] / self.step) - left, 0), width - 1)
        y0 = min(max(round(rect[1] / self.step) - top, 0), height - 1)
        x1 = min(max(round(rect[2] / self.step) - left, 0), width - 1)
        y1 = min(max(round(rect[3] / self.step) - top, 0), height - 1)
        sums = self.sums
        return float(sums[y1, x1] - sums[y0, x1] - sums[y1, x0] + sums[y0, x0])


def grid_step(canvas: tuple[int, int]) -> int:
    """Pixels of a canvas (H, W) between the rows, and the columns, that are looked at."""
    return max(1, round(max(canvas) / _GRID_SIDE))


def thinned(mask: Any, step: int) -> Any:
    """Every step-th row and column of an array, or of what is sliced as one is."""
    return mask[step // 2 :: step, step // 2 :: step]


def place_labels(requests: Sequence[LabelRequest], canvas: tuple[int, int]) -> list[Placement | None]:
    """Places for labels, greedily, in the order of importance.

    Candidates are points of the region far from its border (the first is its visual center) and places above,
    below and beside it. Each costs what it hides: the shares of all regions under the label, plus a little
    for standing on a neighbor or needing a leader line. The cheapest that is free is taken.

    Args:
        requests: labels, most important first.
        canvas: (H, W).
    Returns:
        One place a request, or None where no place is left; places lie inside the canvas and do not overlap.
    """
    step = grid_step(canvas)
    cells = [thinned(request.mask, step) if request.step == 1 else request.mask for request in requests]
    boxes, counts = [_box(own) for own in cells], [int(np.count_nonzero(own)) for own in cells]
    shares = np.zeros(cells[0].shape if cells else (0, 0))
    for own, box, count in zip(cells, boxes, counts, strict=True):
        if box is not None:
            shares[box] += own[box] / count
    hidden = _Grid(shares, step)
    taken: list[Rect] = []
    placements: list[Placement | None] = []
    for request, own, box, count in zip(requests, cells, boxes, counts, strict=True):
        best = None
        area = float(count) * step * step
        fits = request.size[0] + 2 * _MARGIN <= canvas[1] and request.size[1] + 2 * _MARGIN <= canvas[0]
        if box is not None and fits and area >= _MIN_AREA_SHARE * request.size[0] * request.size[1]:
            best = _cheapest(own[box], box, request.size, canvas, hidden, taken)
        if best is not None:
            taken.append(best.rect)
        placements.append(best)
    return placements


def _box(own: Mask) -> Box | None:
    """The rows and columns of cells (h, w) that hold a region; None = it has no cell."""
    rows, columns = (np.flatnonzero(own.any(axis=axis)) for axis in (1, 0))
    if len(rows) == 0:
        return None
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _cheapest(
    own: Mask,
    box: Box,
    size: tuple[float, float],
    canvas: tuple[int, int],
    hidden: _Grid,
    taken: Sequence[Rect],
) -> Placement | None:
    """The place that costs least of those that are free; own: the region's cells in its box."""
    inside = _Grid(own, hidden.step, (box[0].start, box[1].start))
    cells = max(1.0, size[0] * size[1] / hidden.step**2)
    points = list(_deep_points(own, box, size, hidden.step))
    center = points[0][0]
    candidates: list[tuple[float, Placement]] = []
    for order, (point, relative_depth) in enumerate(points):
        rect = _keep_inside(_around(point, size), canvas)
        outside = max(0.0, 1 - inside.total(rect) / cells)
        cost = hidden.total(rect) + _OUTSIDE_COST * outside + _DEPTH_COST * (1 - relative_depth)
        candidates.append((cost + _ORDER_COST * order, Placement(rect, None)))
    for rect in _beside(box, size, hidden.step):
        moved = _keep_inside(rect, canvas)
        covers_center = moved[0] < center[0] < moved[2] and moved[1] < center[1] < moved[3]
        if not covers_center:
            length = math.dist(center, ((moved[0] + moved[2]) / 2, (moved[1] + moved[3]) / 2))
            leader = _LEADER_COST + _LENGTH_COST * length / math.sqrt(canvas[0] * canvas[1])
            candidates.append((hidden.total(moved) + leader, Placement(moved, center)))
    free = [c for c in candidates if not any(_overlap(c[1].rect, other) for other in taken)]
    return min(free, key=lambda c: c[0])[1] if free else None


def _deep_points(own: Mask, box: Box, size: tuple[float, float], step: int) -> Iterator[tuple[Point, float]]:
    """Points of a region far from its border, deepest first, each about a label away from those before; with the depth
    relative to the first one's."""
    top, first = box[0].start, box[1].start
    left = _squared_depths(own)
    away_x, away_y = max(1, round(0.5 * size[0] / step)), max(1, round(0.8 * size[1] / step))
    deepest = math.sqrt(left.max())
    for _ in range(_INSIDE_TRIES):
        level = math.sqrt(left.max())
        if level <= 0:
            return
        # Of equally deep points the one nearest to their mean: stripes are labeled in their middle,
        # not at an end. Squares are whole numbers.
        ys, xs = np.divmod(np.flatnonzero(left >= math.ceil((level - 0.5) ** 2)), left.shape[1])
        nearest = int(np.argmin((ys - ys.mean()) ** 2 + (xs - xs.mean()) ** 2))
        y, x = int(ys[nearest]), int(xs[nearest])
        yield ((first + x + 0.5) * step, (top + y + 0.5) * step), level / deepest
        left[max(0, y - away_y) : y + away_y + 1, max(0, x - away_x) : x + away_x + 1] = 0


def _squared_depths(own: Mask) -> Squares:
    """Squares of the distances of a region's cells to the nearest cell outside, 0 there; the frame is outside.

    As scipy's distance transform has them, which takes three times as long.
    """
    height, width = own.shape
    kind = np.uint16 if (max(height, width) + 1) ** 2 < 2**17 else np.int32  # many at once; see below
    columns = np.arange(1, width + 1, dtype=kind)
    last = np.maximum.accumulate(np.where(own, kind(0), columns), axis=1)
    next_ = np.minimum.accumulate(np.where(own, kind(width + 1), columns)[:, ::-1], axis=1)[:, ::-1]
    framed = np.zeros((height + 2, width), dtype=kind)
    np.square(np.minimum(columns - last, next_ - columns), out=framed[1:-1])  # along the row
    squares = framed[1:-1].copy()
    step = 1
    while step * step < int(squares.max(initial=0)):  # so that a sum is below twice the square of half a side
        below, above = squares[step - 1 :], squares[: height + 1 - step]
        np.minimum(below, framed[: height + 1 - step] + kind(step * step), out=below)
        np.minimum(above, framed[step + 1 :] + kind(step * step), out=above)
        step += 1
    return squares


def _beside(box: Box, size: tuple[float, float], step: int) -> list[Rect]:
    """Rectangles above, below, right and left of a region, then at its corners."""
    y0, y1, x0, x1 = (end * step for side in box for end in (side.start, side.stop))
    middle_x, middle_y = (x0 + x1) / 2, (y0 + y1) / 2
    reach_x, reach_y = 2 * _MARGIN + size[0] / 2, 2 * _MARGIN + size[1] / 2
    columns = {"left": x0 - reach_x, "middle": middle_x, "right": x1 + reach_x}
    rows = {"top": y0 - reach_y, "middle": middle_y, "bottom": y1 + reach_y}
    order = [("middle", "top"), ("middle", "bottom"), ("right", "middle"), ("left", "middle")]
    order += [(column, row) for row in ("top", "bottom") for column in ("right", "left")]
    return [_around((columns[column], rows[row]), size) for column, row in order]


def _around(point: Point, size: tuple[float, float]) -> Rect:
    half_width, half_height = size[0] / 2, size[1] / 2
    return (point[0] - half_width, point[1] - half_height, point[0] + half_width, point[1] + half_height)


def _keep_inside(rect: Rect, canvas: tuple[int, int]) -> Rect:
    x0, y0, x1, y1 = rect
    dx = max(0.0, _MARGIN - x0) - max(0.0, x1 + _MARGIN - canvas[1])
    dy = max(0.0, _MARGIN - y0) - max(0.0, y1 + _MARGIN - canvas[0])
    return x0 + dx, y0 + dy, x1 + dx, y1 + dy


def _overlap(a: Rect, b: Rect) -> bool:
    beside = a[2] + _MARGIN <= b[0] or b[2] + _MARGIN <= a[0]
    return not (beside or a[3] + _MARGIN <= b[1] or b[3] + _MARGIN <= a[1])
