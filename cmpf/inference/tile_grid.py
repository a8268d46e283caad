# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Geometry of image tiles: their positions and overlaps, and the sets of object parts to be merged."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

from cmpf.inference.settings import Tiling

# Masks of two tiles show the same object if their IoU inside the tiles' overlap exceeds this. At 0.5 or more, disjoint
# masks have at most one partner each.
SAME_OBJECT_IOU = 0.5
Box: TypeAlias = tuple[int, int, int, int]  # top, left, bottom, right in pixels of the image


@dataclass(frozen=True)
class Tile:
    """A tile, in pixels of the image. own_rows, own_columns: the part closer to this tile's center than to a
    neighbor's."""

    rows: range
    own_rows: range
    columns: range
    own_columns: range

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return len(self.rows), len(self.columns)

    @property
    def box(self) -> Box:
        """Bounding box."""
        return self.rows.start, self.columns.start, self.rows.stop, self.columns.stop

    def crop(self, image: Any) -> Any:
        """Crops an array (H, W, ...)."""
        return image[self.rows.start : self.rows.stop, self.columns.start : self.columns.stop]


def tile_grid(size: tuple[int, int], tiling: Tiling) -> list[list[Tile]]:
    """Evenly spaced tiles of an image (H, W): rows of tiles."""
    rows, columns = (_spans(side, tiling.tile, tiling.overlap) for side in size)
    return [[Tile(*row, *column) for column in columns] for row in rows]


def _spans(side: int, tile: int, overlap: float) -> list[tuple[range, range]]:
    """Extent and own part of each tile along one side; own parts meet in the middle of the overlaps."""
    tile = min(tile, side)
    count = 1 + math.ceil((side - tile) / max(1, tile - round(overlap * tile)))
    starts = [round(index * (side - tile) / max(1, count - 1)) for index in range(count)]
    seams = [0, *((first + tile + second) // 2 for first, second in pairwise(starts)), side]
    own = [range(*ends) for ends in pairwise(seams)]
    return [(range(start, start + tile), part) for start, part in zip(starts, own, strict=True)]


def intersection(a: Box, b: Box) -> Box | None:
    """Intersection of two boxes; None if it is empty."""
    top, left = max(a[0], b[0]), max(a[1], b[1])
    bottom, right = min(a[2], b[2]), min(a[3], b[3])
    return (top, left, bottom, right) if top < bottom and left < right else None


class DisjointSets:
    """Union-find over consecutive integers."""

    def __init__(self) -> None:
        self._parent: list[int] = []

    def add(self) -> int:
        """Adds an element in a set of its own and returns its number."""
        self._parent.append(len(self._parent))
        return self._parent[-1]

    def find(self, element: int) -> int:
        """The smallest element of the set that contains `element`."""
        while self._parent[element] != element:
            element = self._parent[element]
        return element

    def union(self, a: int, b: int) -> None:
        """Merges the sets of two elements."""
        first, second = sorted((self.find(a), self.find(b)))
        self._parent[second] = first
