# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The panoptic image from those of its tiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cmpf.inference.tile_grid import SAME, Box, Groups, Tile, shared
from cmpf.types import MaskOrigin, SegmentInfo


@dataclass(frozen=True)
class _Segments:
    """Panoptic segments of a tile: ids (h, w) that count through the image, -1 = void; what is known of each."""

    tile: Tile
    ids: NDArray[np.int32]
    infos: dict[int, SegmentInfo]


class PanopticPieces:
    """Panoptic segments of all tiles so far.

    A pixel belongs to the tile in which it lies deepest: neighbors meet in the middle of what they share. Things are
    matched as InstancePieces does; stuff of one class is one segment.

    Args:
        size: (H, W) of the image.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self._ids = torch.full(size, -1, dtype=torch.int32)
        self._groups = Groups()
        self._infos: list[SegmentInfo] = []
        self._stuff: dict[int, int] = {}
        self._tiles: list[_Segments] = []

    def add(self, tile: Tile, ids: Tensor, infos: Sequence[SegmentInfo]) -> None:
        """The segments of a tile: ids (h, w), 0 = void."""
        lookup = np.full(1 + max((info["id"] for info in infos), default=0), -1, dtype=np.int32)
        own: dict[int, SegmentInfo] = {}
        for info in infos:
            number = self._groups.add()
            lookup[info["id"]] = number
            self._infos.append(info)
            own[number] = info
            if not info["isthing"]:
                self._groups.join(self._stuff.setdefault(info["category_id"], number), number)
        segments = _Segments(tile, lookup[ids.cpu().numpy()], own)
        for other in self._tiles:
            if (zone := shared(tile, other.tile)) is not None:
                self._match(segments, other, zone)
        rows, columns = tile.own_rows, tile.own_columns
        y, x = tile.rows.start, tile.columns.start
        part = segments.ids[rows.start - y : rows.stop - y, columns.start - x : columns.stop - x]
        self._ids[rows.start : rows.stop, columns.start : columns.stop] = torch.from_numpy(part)
        self._tiles = [s for s in self._tiles if s.tile.rows.stop > tile.rows.start] + [segments]

    def _match(self, one: _Segments, other: _Segments, zone: Box) -> None:
        """Joins things that show one object where both tiles see it."""
        mine, theirs = (_cut(segments, zone) for segments in (one, other))
        both = (mine >= 0) & (theirs >= 0)
        pairs, common = np.unique(np.stack([mine[both], theirs[both]]), axis=1, return_counts=True)
        areas = {**_areas(mine), **_areas(theirs)}
        for (first, second), area in zip(pairs.T.tolist(), common.tolist(), strict=True):
            a, b = one.infos[first], other.infos[second]
            same_kind = a["category_id"] == b["category_id"] and a["isthing"]
            if same_kind and area / (areas[first] + areas[second] - area) > SAME:
                self._groups.join(first, second)

    def result(self) -> tuple[Tensor, list[SegmentInfo]]:
        """Ids (H, W) int32 from 1, 0 = void, and the segments; of a single tile those that it had."""
        ids = self._ids.numpy()
        count = len(self._infos)
        areas = np.zeros(count + 1, dtype=np.int64)
        for row in ids:
            areas += np.bincount(row + 1, minlength=count + 1)
        lookup = np.zeros(count + 1, dtype=np.int32)
        parts: dict[int, list[int]] = {}
        for number in range(count):
            if areas[number + 1]:
                parts.setdefault(self._groups.of(number), []).append(number)
        segments = []
        for place, numbers in enumerate(parts.values(), start=1):
            lookup[[number + 1 for number in numbers]] = place
            segments.append(
                _joined([self._infos[n] for n in numbers], areas[[n + 1 for n in numbers]], place)
            )
        for row in ids:
            row[:] = lookup[row + 1]
        return self._ids, segments


def _joined(infos: Sequence[SegmentInfo], areas: NDArray[np.int64], place: int) -> SegmentInfo:
    """One segment from its parts."""
    total = int(areas.sum())
    score = sum(info["score"] * int(area) for info, area in zip(infos, areas, strict=True)) / total
    source: MaskOrigin = infos[int(areas.argmax())].get("source", "decoder")
    first = infos[0]
    return {**first, "id": place, "area": total, "score": score, "source": source}


def _cut(segments: _Segments, zone: Box) -> NDArray[np.int32]:
    y, x = segments.tile.rows.start, segments.tile.columns.start
    return segments.ids[zone[0] - y : zone[2] - y, zone[1] - x : zone[3] - x]


def _areas(ids: NDArray[np.int32]) -> dict[int, int]:
    numbers, counts = np.unique(ids, return_counts=True)
    return dict(zip(numbers.tolist(), counts.tolist(), strict=True))
