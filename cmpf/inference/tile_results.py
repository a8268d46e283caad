# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Instances and the panoptic image from those of the tiles."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cmpf.inference.conversions import instances_of
from cmpf.inference.mask_sequence import MaskSequence
from cmpf.inference.settings import Selection
from cmpf.inference.tile_grid import SAME, Box, Groups, Tile, common, shared
from cmpf.types import InstanceResult, MaskOrigin, SegmentInfo


@dataclass(frozen=True)
class _Piece:
    """An instance in one tile. bits: packed mask of its box (h, w)."""

    number: int
    label: int
    score: float
    source: str
    box: Box
    area: int
    bits: NDArray[np.uint8]

    def mask(self) -> NDArray[np.bool_]:
        """(h, w)."""
        top, left, bottom, right = self.box
        flat = np.unpackbits(self.bits, count=(bottom - top) * (right - left))
        return flat.reshape(bottom - top, right - left).view(np.bool_)

    def draw(self, mask: NDArray[np.bool_], origin: tuple[int, int] = (0, 0)) -> None:
        """Adds what lies in a part of the image, whose first row and column are given."""
        height, width = mask.shape
        inside = common(self.box, (origin[0], origin[1], origin[0] + height, origin[1] + width))
        if inside is not None:
            mask[_at(inside, origin)] |= self.mask()[_at(inside, (self.box[0], self.box[1]))]


def _at(box: Box, origin: tuple[int, int]) -> tuple[slice, slice]:
    """A box as rows and columns of an array that begins at a place of the image."""
    (top, left, bottom, right), (y, x) = box, origin
    return slice(top - y, bottom - y), slice(left - x, right - x)


class InstancePieces:
    """Instances of all tiles so far.

    Two of one class in neighboring tiles are one where their masks have an IoU above one half in what the tiles
    share. One that its tile cuts, all of which lies in what a neighbor shows more of, is left to the neighbor.
    Its score is the mean over the pixels of its parts, and its source that of the largest.

    Args:
        size: (H, W) of the image.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self._size = size
        self._groups = Groups()
        self._pieces: list[_Piece] = []
        self._tiles: list[tuple[Tile, list[_Piece]]] = []

    def add(self, tile: Tile, found: InstanceResult, selection: Selection | None) -> None:
        """The instances of a tile, of which those are read that the selection leaves."""
        every = instances_of(found)
        chosen = every if selection is None else replace(selection, max_instances=None).of_instances(every)
        pieces: list[_Piece] = []
        for mask, score, label, source in zip(
            chosen.masks, chosen.scores, chosen.labels, chosen.sources, strict=True
        ):
            if not mask.any():
                continue
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            top, left, bottom, right = int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1
            y, x = tile.rows.start, tile.columns.start
            box = (y + top, x + left, y + bottom, x + right)
            if self._left_to_neighbor(tile, box):
                continue
            cut = mask[top:bottom, left:right]
            number, area = self._groups.add(), int(np.count_nonzero(cut))
            piece = _Piece(number, int(label), float(score), str(source), box, area, np.packbits(cut))
            pieces.append(piece)
        for other, theirs in self._tiles:
            if (zone := shared(tile, other)) is not None:
                for one, two in _partners(pieces, theirs, zone):
                    self._groups.join(one.number, two.number)
        self._pieces += pieces
        self._tiles = [(t, p) for t, p in self._tiles if t.rows.stop > tile.rows.start] + [(tile, pieces)]

    def _left_to_neighbor(self, tile: Tile, box: Box) -> bool:
        """Whether the tile's end cuts an object that lies in its outer part, where another tile shows more of it.

        The outer part begins where the tile's own ends, as far from the neighbor's end as from this one.
        """
        height, width = self._size
        ends = (
            (box[2] == tile.rows.stop < height, box[0] >= tile.own_rows.stop),
            (box[3] == tile.columns.stop < width, box[1] >= tile.own_columns.stop),
            (box[0] == tile.rows.start > 0, box[2] <= tile.own_rows.start),
            (box[1] == tile.columns.start > 0, box[3] <= tile.own_columns.start),
        )
        return any(cut and outer for cut, outer in ends)

    def result(self, most: int | None = None) -> InstanceResult:
        """Instances, best first and no more than so many; their masks are drawn when they are read."""
        groups: dict[int, list[_Piece]] = {}
        for piece in self._pieces:
            groups.setdefault(self._groups.of(piece.number), []).append(piece)
        scored = [(sum(p.score * p.area for p in g) / sum(p.area for p in g), g) for g in groups.values()]
        scored = sorted(scored, key=lambda pair: -pair[0])[:most]
        parts = [group for _, group in scored]
        largest = [max(group, key=lambda piece: piece.area) for group in parts]

        def make(number: int, mask: NDArray[np.bool_]) -> None:
            for piece in parts[number]:
                piece.draw(mask)

        boxes = [
            [
                min(p.box[1] for p in g),
                min(p.box[0] for p in g),
                max(p.box[3] for p in g),
                max(p.box[2] for p in g),
            ]
            for g in parts
        ]
        return InstanceResult(
            pred_masks=torch.zeros(0, *self._size, dtype=torch.bool),
            pred_boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            scores=torch.tensor([score for score, _ in scored], dtype=torch.float32),
            pred_classes=torch.tensor([piece.label for piece in largest], dtype=torch.int64),
            of_sam=torch.tensor([piece.source == "sam" for piece in largest], dtype=torch.bool),
            lazy_masks=MaskSequence(make, np.arange(len(parts)), self._size),
        )


def _partners(
    pieces: Sequence[_Piece], others: Sequence[_Piece], zone: Box
) -> Iterable[tuple[_Piece, _Piece]]:
    """Pairs that show one object, each piece in one pair at most, the surest first."""
    rated: list[tuple[float, int, int]] = []
    theirs = {place: _in_zone(piece, zone) for place, piece in enumerate(others)}
    for place, piece in enumerate(pieces):
        own = _in_zone(piece, zone)
        if own is None:
            continue
        for partner, mask in theirs.items():
            if mask is None or others[partner].label != piece.label:
                continue
            iou = np.count_nonzero(own & mask) / max(1, int(np.count_nonzero(own | mask)))
            if iou > SAME:
                rated.append((-iou, place, partner))
    taken: set[int] = set()
    given: set[int] = set()
    for _, place, partner in sorted(rated):
        if place not in taken and partner not in given:
            taken.add(place)
            given.add(partner)
            yield pieces[place], others[partner]


def _in_zone(piece: _Piece, zone: Box) -> NDArray[np.bool_] | None:
    """Its mask in a part of the image; None = it has no pixel there."""
    if common(piece.box, zone) is None:
        return None
    mask = np.zeros((zone[2] - zone[0], zone[3] - zone[1]), dtype=np.bool_)
    piece.draw(mask, (zone[0], zone[1]))
    return mask if mask.any() else None


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
