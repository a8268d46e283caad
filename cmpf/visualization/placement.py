# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Places labels near their regions, so that they hide little of the image and do not overlap."""

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

_GRID_SIDE = 256  # masks are subsampled to about this many cells per side
_MAX_POINTS = 8  # candidate points inside a region
_MARGIN = 3.0  # canvas pixels between labels, and to the image's edge
_MIN_AREA_SHARE = 0.12  # of the label's area; smaller regions get no label, which would hide them
# Cost of a candidate, where 1 = a whole region is hidden:
_OUTSIDE_COST = 0.4  # the label is completely outside its region, where it could be taken for another's
_LEADER_COST = 0.3  # the label is beside its region, connected by a leader line
_LENGTH_COST = 1.2  # the leader line is as long as the side of a square canvas
_ORDER_COST = 0.01  # per preceding candidate point
_DEPTH_COST = 0.2  # the label is at the region's border instead of its visual center


@dataclass(frozen=True)
class Placement:
    """The rectangle of a label, and the end of its leader line in its region, None = no leader line."""

    rect: Rect
    leader: Point | None


class _Grid:
    """A summed-area table of a field (h, w), for sums over rectangles in constant time.

    Args:
        step: canvas pixels per cell.
        first: row and column of the field's first cell on the canvas; the field is 0 elsewhere.
    """

    def __init__(self, field: npt.NDArray[Any], step: int, first: tuple[int, int] = (0, 0)) -> None:
        height, width = field.shape
        dtype = np.float64 if field.dtype == np.float64 else np.int32  # a bool field is counted
        self.sums = np.zeros((height + 1, width + 1), dtype=dtype)
        inner = self.sums[1:, 1:]
        np.cumsum(field, axis=0, out=inner)
        np.cumsum(inner, axis=1, out=inner)
        self.step, self.first = step, first

    def total(self, rect: Rect) -> float:
        """The sum over the cells in a rectangle of canvas pixels."""
        height, width = self.sums.shape
        top, left = self.first
        x0 = min(max(round(rect[0] / self.step) - left, 0), width - 1)
        y0 = min(max(round(rect[1] / self.step) - top, 0), height - 1)
        x1 = min(max(round(rect[2] / self.step) - left, 0), width - 1)
        y1 = min(max(round(rect[3] / self.step) - top, 0), height - 1)
        sums = self.sums
        return float(sums[y1, x1] - sums[y0, x1] - sums[y1, x0] + sums[y0, x0])


def grid_step(canvas: tuple[int, int]) -> int:
    """Step by which masks of a canvas (H, W) are subsampled, in pixels."""
    return max(1, round(max(canvas) / _GRID_SIDE))


def subsample(mask: Any, step: int) -> Any:
    """Every step-th row and column of an array, or of an object that is indexed like one."""
    return mask[step // 2 :: step, step // 2 :: step]


def place_labels(
    masks: Sequence[Mask], sizes: Sequence[tuple[float, float]], canvas: tuple[int, int]
) -> list[Placement | None]:
    """Places labels greedily, in the given order.

    Candidates are points of the region far from its border (the first is its visual center), and positions around its
    bounding box. The cost of a candidate is the share of each region that the label hides, plus penalties for lying
    outside its region or needing a leader line. Each label gets the cheapest candidate that overlaps no other label.

    Args:
        masks: region of each label, subsampled by `grid_step`; most important first.
        sizes: (width, height) of each label in canvas pixels.
        canvas: (H, W).
    Returns:
        A placement for each label, None if there is no room. Placements are inside the canvas and do not overlap.
    """
    step = grid_step(canvas)
    boxes, counts = [_bounding_box(mask) for mask in masks], [int(np.count_nonzero(mask)) for mask in masks]
    shares = np.zeros(masks[0].shape if masks else (0, 0))
    for mask, box, count in zip(masks, boxes, counts, strict=True):
        if box is not None:
            shares[box] += mask[box] / count
    hidden = _Grid(shares, step)
    placed: list[Rect] = []
    placements: list[Placement | None] = []
    for size, mask, box, count in zip(sizes, masks, boxes, counts, strict=True):
        best = None
        area = float(count) * step * step
        fits = size[0] + 2 * _MARGIN <= canvas[1] and size[1] + 2 * _MARGIN <= canvas[0]
        if box is not None and fits and area >= _MIN_AREA_SHARE * size[0] * size[1]:
            best = _cheapest(mask[box], box, size, canvas, hidden, placed)
        if best is not None:
            placed.append(best.rect)
        placements.append(best)
    return placements


def _bounding_box(mask: Mask) -> Box | None:
    """The bounding box of a mask (h, w); None = the mask is empty."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if len(rows) == 0:
        return None
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _cheapest(
    mask: Mask,
    box: Box,
    size: tuple[float, float],
    canvas: tuple[int, int],
    hidden: _Grid,
    placed: Sequence[Rect],
) -> Placement | None:
    """The candidate with the lowest cost that overlaps no placed label; None = there is none.

    Args:
        mask: the region, cropped to its box.
        hidden: sums the shares of all regions.
        placed: rectangles of labels.
    """
    inside = _Grid(mask, hidden.step, (box[0].start, box[1].start))
    cells = max(1.0, size[0] * size[1] / hidden.step**2)
    points = list(_deep_points(mask, box, size, hidden.step))
    center = points[0][0]
    candidates: list[tuple[float, Placement]] = []
    for order, (point, relative_depth) in enumerate(points):
        rect = _clamp(_centered_rect(point, size), canvas)
        outside = max(0.0, 1 - inside.total(rect) / cells)
        cost = hidden.total(rect) + _OUTSIDE_COST * outside + _DEPTH_COST * (1 - relative_depth)
        candidates.append((cost + _ORDER_COST * order, Placement(rect, None)))
    for rect in _outside_rects(box, size, hidden.step):
        moved = _clamp(rect, canvas)
        covers_center = moved[0] < center[0] < moved[2] and moved[1] < center[1] < moved[3]
        if not covers_center:
            length = math.dist(center, ((moved[0] + moved[2]) / 2, (moved[1] + moved[3]) / 2))
            leader = _LEADER_COST + _LENGTH_COST * length / math.sqrt(canvas[0] * canvas[1])
            candidates.append((hidden.total(moved) + leader, Placement(moved, center)))
    free = [c for c in candidates if not any(_overlap(c[1].rect, other) for other in placed)]
    return min(free, key=lambda c: c[0])[1] if free else None


def _deep_points(mask: Mask, box: Box, size: tuple[float, float], step: int) -> Iterator[tuple[Point, float]]:
    """Yields points far from the region's border, deepest first, with their depth relative to the first one's.

    Points are about a label apart.
    """
    top, left = box[0].start, box[1].start
    depths = _squared_depths(mask)
    away_x, away_y = max(1, round(0.5 * size[0] / step)), max(1, round(0.8 * size[1] / step))
    deepest = math.sqrt(depths.max())
    for _ in range(_MAX_POINTS):
        level = math.sqrt(depths.max())
        if level <= 0:
            return
        # Of equally deep points, choose the one nearest to their mean, so that a stripe is labeled in its middle.
        ys, xs = np.divmod(np.flatnonzero(depths >= math.ceil((level - 0.5) ** 2)), depths.shape[1])
        nearest = int(np.argmin((ys - ys.mean()) ** 2 + (xs - xs.mean()) ** 2))
        y, x = int(ys[nearest]), int(xs[nearest])
        yield ((left + x + 0.5) * step, (top + y + 0.5) * step), level / deepest
        depths[max(0, y - away_y) : y + away_y + 1, max(0, x - away_x) : x + away_x + 1] = 0


def _squared_depths(mask: Mask) -> Squares:
    """Squared Euclidean distance of each cell to the nearest cell outside the mask; cells beyond the edge are outside.

    Equals the square of scipy's distance transform, in a third of its time.
    """
    height, width = mask.shape
    # Small types are faster; for the largest value see the loop below.
    dtype = np.uint16 if (max(height, width) + 1) ** 2 < 2**17 else np.int32
    columns = np.arange(1, width + 1, dtype=dtype)
    previous = np.maximum.accumulate(np.where(mask, dtype(0), columns), axis=1)
    following = np.minimum.accumulate(np.where(mask, dtype(width + 1), columns)[:, ::-1], axis=1)[:, ::-1]
    padded = np.zeros((height + 2, width), dtype=dtype)
    np.square(np.minimum(columns - previous, following - columns), out=padded[1:-1])  # along the row
    squares = padded[1:-1].copy()
    step = 1
    while step * step < int(squares.max(initial=0)):  # a sum is then below twice the square of half a side
        below, above = squares[step - 1 :], squares[: height + 1 - step]
        np.minimum(below, padded[: height + 1 - step] + dtype(step * step), out=below)
        np.minimum(above, padded[step + 1 :] + dtype(step * step), out=above)
        step += 1
    return squares


def _outside_rects(box: Box, size: tuple[float, float], step: int) -> list[Rect]:
    """Rectangles above, below, right and left of a bounding box, then at its corners."""
    y0, y1, x0, x1 = (end * step for side in box for end in (side.start, side.stop))
    middle_x, middle_y = (x0 + x1) / 2, (y0 + y1) / 2
    reach_x, reach_y = 2 * _MARGIN + size[0] / 2, 2 * _MARGIN + size[1] / 2
    columns = {"left": x0 - reach_x, "middle": middle_x, "right": x1 + reach_x}
    rows = {"top": y0 - reach_y, "middle": middle_y, "bottom": y1 + reach_y}
    order = [("middle", "top"), ("middle", "bottom"), ("right", "middle"), ("left", "middle")]
    order += [(column, row) for row in ("top", "bottom") for column in ("right", "left")]
    return [_centered_rect((columns[column], rows[row]), size) for column, row in order]


def _centered_rect(point: Point, size: tuple[float, float]) -> Rect:
    half_width, half_height = size[0] / 2, size[1] / 2
    return (point[0] - half_width, point[1] - half_height, point[0] + half_width, point[1] + half_height)


def _clamp(rect: Rect, canvas: tuple[int, int]) -> Rect:
    """Moves a rectangle into the canvas."""
    x0, y0, x1, y1 = rect
    dx = max(0.0, _MARGIN - x0) - max(0.0, x1 + _MARGIN - canvas[1])
    dy = max(0.0, _MARGIN - y0) - max(0.0, y1 + _MARGIN - canvas[0])
    return x0 + dx, y0 + dy, x1 + dx, y1 + dy


def _overlap(a: Rect, b: Rect) -> bool:
    side_by_side = a[2] + _MARGIN <= b[0] or b[2] + _MARGIN <= a[0]
    return not (side_by_side or a[3] + _MARGIN <= b[1] or b[3] + _MARGIN <= a[1])
