# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Where the tiles of an image lie, what two of them share, and which parts of objects belong together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

from cmpf.inference.settings import Tiling

SAME = 0.5  # IoU, in what two tiles share, above which two masks show one object; above one half there is one partner
Box: TypeAlias = tuple[int, int, int, int]  # top, left, bottom, right in pixels of the image


@dataclass(frozen=True)
class Tile:
    """A part of an image, in its pixels. own_rows, own_columns: the part of it that no neighbor is surer of."""

    rows: range
    own_rows: range
    columns: range
    own_columns: range

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return len(self.rows), len(self.columns)

    def of(self, image: Any) -> Any:
        """The part of an array (H, W, ...)."""
        return image[self.rows.start : self.rows.stop, self.columns.start : self.columns.stop]


def tile_rows(size: tuple[int, int], tiling: Tiling) -> list[list[Tile]]:
    """Tiles of an image (H, W), evenly spread, row by row."""
    rows, columns = (_spans(side, tiling.tile, tiling.overlap) for side in size)
    return [[Tile(*row, *column) for column in columns] for row in rows]


def _spans(side: int, tile: int, overlap: float) -> list[tuple[range, range]]:
    """Each tile along a side, and its own part: neighbors meet in the middle of what they share."""
    tile = min(tile, side)
    count = 1 + math.ceil((side - tile) / max(1, tile - round(overlap * tile)))
    starts = [round(index * (side - tile) / max(1, count - 1)) for index in range(count)]
    seams = [0, *((first + tile + second) // 2 for first, second in pairwise(starts)), side]
    own = [range(*ends) for ends in pairwise(seams)]
    return [(range(start, start + tile), part) for start, part in zip(starts, own, strict=True)]


def shared(one: Tile, other: Tile) -> Box | None:
    """What two tiles have in common; None = nothing."""
    return common(box_of(one), box_of(other))


def box_of(tile: Tile) -> Box:
    return tile.rows.start, tile.columns.start, tile.rows.stop, tile.columns.stop


def common(one: Box, other: Box) -> Box | None:
    top, left = max(one[0], other[0]), max(one[1], other[1])
    bottom, right = min(one[2], other[2]), min(one[3], other[3])
    return (top, left, bottom, right) if top < bottom and left < right else None


class Groups:
    """Which pieces belong together."""

    def __init__(self) -> None:
        self._leader: list[int] = []

    def add(self) -> int:
        """A new piece; gives its number."""
        self._leader.append(len(self._leader))
        return self._leader[-1]

    def of(self, piece: int) -> int:
        """The first piece of the group."""
        while self._leader[piece] != piece:
            piece = self._leader[piece]
        return piece

    def join(self, one: int, other: int) -> None:
        """Makes two groups one."""
        first, second = sorted((self.of(one), self.of(other)))
        self._leader[second] = first
