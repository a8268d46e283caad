# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Outlines of masks as polygons, for formats that have no run lengths."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmpf.formats.masks import Mask

Polygon = NDArray[np.float64]  # (N, 2) x, y in pixels, not closed
TOLERANCE = 1.0  # pixels that a simplified outline may lie beside the true one
_MIN_POINTS = 3


def mask_polygons(mask: Mask, *, tolerance: float = TOLERANCE) -> list[Polygon]:
    """One polygon a connected part of a mask, largest first; coordinates count pixel corners, 0..W and 0..H.

    A hole is part of the outline around it, by a cut from one to the other and back: polygons cannot say otherwise.

    Args:
        mask: (H, W).
        tolerance: in pixels; 0 = the outline itself, which gives the very same mask again.
    """
    if not mask.any():
        return []
    from scipy import ndimage  # a tenth of the time to a first prediction, which needs no polygons

    parts, count = ndimage.label(mask)  # neighbors share an edge
    found = []
    for number, window in enumerate(ndimage.find_objects(parts, count), start=1):
        inside = parts[window] == number
        loops = sorted(_loops(inside), key=lambda loop: -_area(loop))  # holes turn the other way: negative
        outline, *holes = (_simplified(loop, tolerance) for loop in loops)
        for hole in holes:
            if len(hole) >= _MIN_POINTS:
                outline = _joined(outline, hole)
        if len(outline) >= _MIN_POINTS:
            shift = np.array([window[1].start, window[0].start], dtype=np.float64)
            found.append((int(inside.sum()), outline + shift))
    return [outline for _, outline in sorted(found, key=lambda pair: -pair[0])]


def one_polygon(polygons: list[Polygon]) -> Polygon:
    """Several parts as one outline, by cuts from one to the next and back; (0, 2) where there is none."""
    if not polygons:
        return np.zeros((0, 2))
    outline, *others = polygons
    for other in others:
        outline = _joined(outline, other)
    return outline


def _loops(mask: Mask) -> list[Polygon]:
    """Closed outlines (N, 2) of one part along the edges of its pixels, its corners only; inside is on the right."""
    padded = np.pad(mask, 1)
    below, above = padded[1:, 1:-1], padded[:-1, 1:-1]  # of each horizontal edge
    right, left = padded[1:-1, 1:], padded[1:-1, :-1]  # of each vertical one
    following: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for edges, (dx0, dy0), (dx1, dy1) in (
        (below & ~above, (0, 0), (1, 0)),
        (above & ~below, (1, 0), (0, 0)),
        (left & ~right, (0, 0), (0, 1)),
        (right & ~left, (0, 1), (0, 0)),
    ):
        for y, x in np.argwhere(edges).tolist():
            following.setdefault((x + dx0, y + dy0), []).append((x + dx1, y + dy1))
    loops = []
    while following:
        start = here = next(iter(following))
        before, corners = None, []
        while here in following:
            step = _next(before, here, following)
            if before is None or not _straight(before, here, step):
                corners.append(here)
            before, here = here, step
        if before is not None and len(corners) > 1 and _straight(before, start, corners[1]):
            corners = corners[1:]
        loops.append(np.array(corners, dtype=np.float64))
    return loops


def _next(
    before: tuple[int, int] | None,
    here: tuple[int, int],
    following: dict[tuple[int, int], list[tuple[int, int]]],
) -> tuple[int, int]:
    """Where an outline goes on; where two touch, it turns right, so that each stays around its own pixels."""
    options = following[here]
    place = 0
    if len(options) > 1 and before is not None:
        dx, dy = here[0] - before[0], here[1] - before[1]
        place = options.index((here[0] - dy, here[1] + dx))
    chosen = options.pop(place)
    if not options:
        del following[here]
    return chosen


def _straight(a: tuple[int, int], b: tuple[int, int], c: tuple[Any, ...]) -> bool:
    return bool((b[0] - a[0]) * (c[1] - b[1]) == (b[1] - a[1]) * (c[0] - b[0]))


def _area(loop: Polygon) -> float:
    """Signed: positive around pixels, negative around a hole."""
    x, y = loop[:, 0], loop[:, 1]
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def _simplified(loop: Polygon, tolerance: float) -> Polygon:
    """A loop with fewer points, none of the left out ones farther than the tolerance from it (Douglas and Peucker)."""
    if tolerance == 0 or len(loop) <= _MIN_POINTS:
        return loop
    far = int(np.argmax(np.square(loop - loop[0]).sum(axis=1)))
    closed = np.concatenate([loop, loop[:1]])
    kept = {0, far, len(loop)}
    stack = [(0, far), (far, len(loop))]
    while stack:
        first, last = stack.pop()
        if last - first < 2:
            continue
        a, along = closed[first], closed[last] - closed[first]
        apart = closed[first + 1 : last] - a
        length = float(np.hypot(*along))
        beside = (
            np.abs(along[0] * apart[:, 1] - along[1] * apart[:, 0]) / length
            if length
            else np.hypot(apart[:, 0], apart[:, 1])
        )
        place = int(np.argmax(beside))
        if beside[place] > tolerance:
            middle = first + 1 + place
            kept.add(middle)
            stack += [(first, middle), (middle, last)]
    return closed[sorted(kept)[:-1]]


def _joined(outline: Polygon, other: Polygon) -> Polygon:
    """An outline that goes over to another at the nearest of their points, around it, and back."""
    apart = np.square(outline[:, None] - other[None]).sum(axis=2)
    here, there = np.unravel_index(int(np.argmin(apart)), apart.shape)
    around = np.concatenate([other[there:], other[: there + 1]])
    return np.concatenate([outline[: here + 1], around, outline[here:]])
