# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Converts masks to polygons, for file formats without RLE."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cmpf.formats.masks import Mask

Polygon = NDArray[np.float64]  # (N, 2) x, y in pixels; the first point is not repeated at the end
TOLERANCE = 1.0  # largest distance in pixels between a simplified outline and the exact one
_MIN_POINTS = 3


def mask_polygons(mask: Mask, *, tolerance: float = TOLERANCE) -> list[Polygon]:
    """One polygon per connected component (4-connectivity), largest first, in pixel-corner coordinates 0..W and 0..H.

    A hole is connected to the outline around it by a zero-width cut, because a polygon cannot have holes.

    Args:
        mask: (H, W).
        tolerance: in pixels; 0 = the exact outline, from which the same mask can be filled.
    """
    if not mask.any():
        return []
    from scipy import ndimage  # slow to import; the first prediction does not need it

    components, count = ndimage.label(mask)
    polygons = []
    for number, window in enumerate(ndimage.find_objects(components, count), start=1):
        inside = components[window] == number
        outline, *holes = (_simplify(loop, tolerance) for loop in _loops(inside))
        for hole in holes:
            if len(hole) >= _MIN_POINTS:
                outline = _connect(outline, hole)
        if len(outline) >= _MIN_POINTS:
            offset = np.array([window[1].start, window[0].start], dtype=np.float64)
            polygons.append((int(inside.sum()), outline + offset))
    return [polygon for _, polygon in sorted(polygons, key=lambda pair: -pair[0])]


def one_polygon(polygons: list[Polygon]) -> Polygon:
    """Merges several polygons into one by zero-width cuts between them; (0, 2) if there are none."""
    if not polygons:
        return np.zeros((0, 2))
    outline, *others = polygons
    for other in others:
        outline = _connect(outline, other)
    return outline


def _loops(mask: Mask) -> list[Polygon]:
    """Closed outlines (N, 2) of one component along its pixel edges, corners only, with the inside on the right.

    The outline around the component comes first, then those of its holes.
    """
    padded = np.pad(mask, 1)
    below, above = padded[1:, 1:-1], padded[:-1, 1:-1]  # pixels next to each horizontal edge
    right, left = padded[1:-1, 1:], padded[1:-1, :-1]  # pixels next to each vertical edge
    successors: dict[tuple[int, int], list[tuple[int, int]]] = {}  # directed edges: start -> ends
    for edges, (dx0, dy0), (dx1, dy1) in (
        (below & ~above, (0, 0), (1, 0)),
        (above & ~below, (1, 0), (0, 0)),
        (left & ~right, (0, 0), (0, 1)),
        (right & ~left, (0, 1), (0, 0)),
    ):
        for y, x in np.argwhere(edges).tolist():
            successors.setdefault((x + dx0, y + dy0), []).append((x + dx1, y + dy1))
    loops = []
    while successors:
        # The leftmost start of an edge above pixels, in the first row that has one left: a corner, and of the outline
        # around the component before any hole's.
        point = next(iter(successors))
        previous, corners = None, []
        while point in successors:
            following = _pop_successor(previous, point, successors)
            if previous is None or not _collinear(previous, point, following):
                corners.append(point)
            previous, point = point, following
        loops.append(np.array(corners, dtype=np.float64))
    return loops


def _pop_successor(
    previous: tuple[int, int] | None,
    point: tuple[int, int],
    successors: dict[tuple[int, int], list[tuple[int, int]]],
) -> tuple[int, int]:
    """Removes and returns the next point of an outline; turns right where two outlines touch, to keep them apart."""
    options = successors[point]
    index = 0
    if len(options) > 1 and previous is not None:
        dx, dy = point[0] - previous[0], point[1] - previous[1]
        index = options.index((point[0] - dy, point[1] + dx))
    chosen = options.pop(index)
    if not options:
        del successors[point]
    return chosen


def _collinear(a: tuple[int, int], b: tuple[int, int], c: tuple[int, int]) -> bool:
    return bool((b[0] - a[0]) * (c[1] - b[1]) == (b[1] - a[1]) * (c[0] - b[0]))


def _simplify(loop: Polygon, tolerance: float) -> Polygon:
    """Removes points of a closed loop that stay within `tolerance` of the result (Douglas-Peucker)."""
    if tolerance == 0 or len(loop) <= _MIN_POINTS:
        return loop
    farthest = int(np.argmax(np.square(loop - loop[0]).sum(axis=1)))
    closed = np.concatenate([loop, loop[:1]])
    kept = {0, farthest, len(loop)}
    stack = [(0, farthest), (farthest, len(loop))]
    while stack:
        first, last = stack.pop()
        if last - first < 2:
            continue
        a, chord = closed[first], closed[last] - closed[first]
        offsets = closed[first + 1 : last] - a
        length = float(np.hypot(*chord))
        distances = (
            np.abs(chord[0] * offsets[:, 1] - chord[1] * offsets[:, 0]) / length
            if length
            else np.hypot(offsets[:, 0], offsets[:, 1])
        )
        index = int(np.argmax(distances))
        if distances[index] > tolerance:
            split = first + 1 + index
            kept.add(split)
            stack += [(first, split), (split, last)]
    return closed[sorted(kept)[:-1]]


def _connect(outline: Polygon, other: Polygon) -> Polygon:
    """Inserts `other` into `outline` by a cut between their nearest points."""
    distances = np.square(outline[:, None] - other[None]).sum(axis=2)
    i, j = np.unravel_index(int(np.argmin(distances)), distances.shape)
    loop = np.concatenate([other[j:], other[: j + 1]])
    return np.concatenate([outline[: i + 1], loop, outline[i:]])
