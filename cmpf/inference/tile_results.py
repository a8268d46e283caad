# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Merging of the tiles' instances and panoptic segments."""

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
from cmpf.inference.tile_grid import SAME_OBJECT_IOU, Box, DisjointSets, Tile, intersection
from cmpf.types import InstanceResult, MaskOrigin, SegmentInfo


@dataclass(frozen=True)
class _Part:
    """An instance in one tile. bits: packed mask (h, w) inside its box."""

    number: int
    label: int
    score: float
    source: str
    box: Box
    area: int
    bits: NDArray[np.uint8]

    def mask(self) -> NDArray[np.bool_]:
        """The mask (h, w) inside the box."""
        top, left, bottom, right = self.box
        flat = np.unpackbits(self.bits, count=(bottom - top) * (right - left))
        return flat.reshape(bottom - top, right - left).view(np.bool_)

    def draw(self, canvas: NDArray[np.bool_], origin: tuple[int, int] = (0, 0)) -> None:
        """Draws the mask on a canvas (H, W) whose first pixel is at `origin` (y, x) of the image."""
        height, width = canvas.shape
        visible = intersection(self.box, (origin[0], origin[1], origin[0] + height, origin[1] + width))
        if visible is not None:
            canvas[_slices(visible, origin)] |= self.mask()[_slices(visible, (self.box[0], self.box[1]))]


def _slices(box: Box, origin: tuple[int, int]) -> tuple[slice, slice]:
    """Slices of a box in an array whose first pixel is at `origin` (y, x) of the image."""
    (top, left, bottom, right), (y, x) = box, origin
    return slice(top - y, bottom - y), slice(left - x, right - x)


class InstanceMerger:
    """Merges the instances of the tiles.

    Instances of the same class in neighboring tiles are merged if their masks' IoU inside the tiles' overlap is above
    0.5. An instance that is cut by its tile's border and lies outside the tile's own part is dropped, because a
    neighbor shows more of it. A merged instance has the area-weighted mean score of its parts and the source of the
    largest one.

    Args:
        size: (H, W) of the image.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self._size = size
        self._sets = DisjointSets()
        self._parts: list[_Part] = []
        self._tiles: list[tuple[Tile, list[_Part]]] = []  # tiles that later ones may overlap

    def add(self, tile: Tile, result: InstanceResult, selection: Selection | None) -> None:
        """Adds the instances of a tile that pass the selection, whatever its max_instances."""
        instances = instances_of(result)
        if selection is not None:
            instances = replace(selection, max_instances=None).filter_instances(instances)
        parts: list[_Part] = []
        for mask, score, label, source in zip(
            instances.masks, instances.scores, instances.labels, instances.sources, strict=True
        ):
            if not mask.any():
                continue
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            top, left, bottom, right = int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1
            y, x = tile.rows.start, tile.columns.start
            box = (y + top, x + left, y + bottom, x + right)
            if _neighbor_shows_more(tile, box):
                continue
            crop = mask[top:bottom, left:right]
            number, area = self._sets.add(), int(np.count_nonzero(crop))
            parts.append(_Part(number, int(label), float(score), str(source), box, area, np.packbits(crop)))
        for other_tile, other_parts in self._tiles:
            if (overlap := intersection(tile.box, other_tile.box)) is not None:
                for a, b in _match(parts, other_parts, overlap):
                    self._sets.union(a.number, b.number)
        self._parts += parts
        self._tiles = [(t, p) for t, p in self._tiles if t.rows.stop > tile.rows.start] + [(tile, parts)]

    def result(self, max_instances: int | None = None) -> InstanceResult:
        """The merged instances, best first; each mask is drawn when it is read."""
        groups: dict[int, list[_Part]] = {}
        for part in self._parts:
            groups.setdefault(self._sets.find(part.number), []).append(part)
        scored = [(sum(p.score * p.area for p in g) / sum(p.area for p in g), g) for g in groups.values()]
        scored = sorted(scored, key=lambda pair: -pair[0])[:max_instances]
        instances = [group for _, group in scored]
        largest = [max(group, key=lambda part: part.area) for group in instances]

        def draw(number: int, canvas: NDArray[np.bool_]) -> None:
            for part in instances[number]:
                part.draw(canvas)

        boxes = [
            [
                min(p.box[1] for p in g),
                min(p.box[0] for p in g),
                max(p.box[3] for p in g),
                max(p.box[2] for p in g),
            ]
            for g in instances
        ]
        return InstanceResult(
            pred_masks=torch.zeros(0, *self._size, dtype=torch.bool),
            pred_boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            scores=torch.tensor([score for score, _ in scored], dtype=torch.float32),
            pred_classes=torch.tensor([part.label for part in largest], dtype=torch.int64),
            of_sam=torch.tensor([part.source == "sam" for part in largest], dtype=torch.bool),
            lazy_masks=MaskSequence(draw, np.arange(len(instances)), self._size),
        )


def _neighbor_shows_more(tile: Tile, box: Box) -> bool:
    """Whether a border of the tile cuts an object that lies outside the tile's own part.

    At the borders of the image the own part reaches as far as the tile, so that no object lies outside.
    """
    borders = (
        (box[2] == tile.rows.stop, box[0] >= tile.own_rows.stop),
        (box[3] == tile.columns.stop, box[1] >= tile.own_columns.stop),
        (box[0] == tile.rows.start, box[2] <= tile.own_rows.start),
        (box[1] == tile.columns.start, box[3] <= tile.own_columns.start),
    )
    return any(cut and outside for cut, outside in borders)


def _match(parts: Sequence[_Part], others: Sequence[_Part], overlap: Box) -> Iterable[tuple[_Part, _Part]]:
    """Greedy one-to-one matching of parts of the same class by IoU inside the overlap of their tiles."""
    pairs: list[tuple[float, int, int]] = []
    other_masks = {index: _mask_inside(part, overlap) for index, part in enumerate(others)}
    for index, part in enumerate(parts):
        mask = _mask_inside(part, overlap)
        if mask is None:
            continue
        for other_index, other_mask in other_masks.items():
            if other_mask is None or others[other_index].label != part.label:
                continue
            iou = np.count_nonzero(mask & other_mask) / np.count_nonzero(mask | other_mask)
            if iou > SAME_OBJECT_IOU:
                pairs.append((-iou, index, other_index))
    matched: set[int] = set()
    matched_others: set[int] = set()
    for _, index, other_index in sorted(pairs):
        if index not in matched and other_index not in matched_others:
            matched.add(index)
            matched_others.add(other_index)
            yield parts[index], others[other_index]


def _mask_inside(part: _Part, box: Box) -> NDArray[np.bool_] | None:
    """The part's mask inside a box; None if it is empty."""
    if intersection(part.box, box) is None:
        return None
    mask = np.zeros((box[2] - box[0], box[3] - box[1]), dtype=np.bool_)
    part.draw(mask, (box[0], box[1]))
    return mask if mask.any() else None


@dataclass(frozen=True)
class _TileSegments:
    """Panoptic segments of a tile. ids: (h, w), unique in the image, -1 = void."""

    tile: Tile
    ids: NDArray[np.int32]
    infos: dict[int, SegmentInfo]

    def crop(self, box: Box) -> NDArray[np.int32]:
        """Ids inside a box of the image."""
        return self.ids[_slices(box, (self.tile.rows.start, self.tile.columns.start))]


class PanopticMerger:
    """Merges the panoptic segments of the tiles.

    A pixel gets the segment of the tile whose own part contains it. Things are matched as in InstanceMerger; all stuff
    of one class becomes one segment.

    Args:
        size: (H, W) of the image.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self._ids = torch.full(size, -1, dtype=torch.int32)
        self._sets = DisjointSets()
        self._infos: list[SegmentInfo] = []
        self._stuff: dict[int, int] = {}
        self._tiles: list[_TileSegments] = []  # tiles that later ones may overlap

    def add(self, tile: Tile, ids: Tensor, infos: Sequence[SegmentInfo]) -> None:
        """Adds the segments of a tile: ids (h, w), 0 = void."""
        lookup = np.full(1 + max((info["id"] for info in infos), default=0), -1, dtype=np.int32)
        info_of_number: dict[int, SegmentInfo] = {}
        for info in infos:
            number = self._sets.add()
            lookup[info["id"]] = number
            self._infos.append(info)
            info_of_number[number] = info
            if not info["isthing"]:
                self._sets.union(self._stuff.setdefault(info["category_id"], number), number)
        segments = _TileSegments(tile, lookup[ids.cpu().numpy()], info_of_number)
        for other in self._tiles:
            if (overlap := intersection(tile.box, other.tile.box)) is not None:
                self._match_things(segments, other, overlap)
        rows, columns = tile.own_rows, tile.own_columns
        own_part = segments.crop((rows.start, columns.start, rows.stop, columns.stop))
        self._ids[rows.start : rows.stop, columns.start : columns.stop] = torch.from_numpy(own_part)
        self._tiles = [s for s in self._tiles if s.tile.rows.stop > tile.rows.start] + [segments]

    def _match_things(self, a: _TileSegments, b: _TileSegments, overlap: Box) -> None:
        """Merges things of the same class by their IoU inside the overlap of two tiles."""
        ids_a, ids_b = a.crop(overlap), b.crop(overlap)
        both = (ids_a >= 0) & (ids_b >= 0)
        pairs, counts = np.unique(np.stack([ids_a[both], ids_b[both]]), axis=1, return_counts=True)
        areas = {**_areas(ids_a), **_areas(ids_b)}
        for (first, second), area in zip(pairs.T.tolist(), counts.tolist(), strict=True):
            info, other = a.infos[first], b.infos[second]
            same_class = info["category_id"] == other["category_id"] and info["isthing"]
            if same_class and area / (areas[first] + areas[second] - area) > SAME_OBJECT_IOU:
                self._sets.union(first, second)

    def result(self) -> tuple[Tensor, list[SegmentInfo]]:
        """Ids (H, W) int32, 0 = void, and the merged segments, numbered from 1."""
        ids = self._ids.numpy()
        count = len(self._infos)
        areas = np.zeros(count + 1, dtype=np.int64)
        for row in ids:
            areas += np.bincount(row + 1, minlength=count + 1)
        lookup = np.zeros(count + 1, dtype=np.int32)
        parts: dict[int, list[int]] = {}
        for number in range(count):
            if areas[number + 1]:
                parts.setdefault(self._sets.find(number), []).append(number)
        segments = []
        for segment_id, numbers in enumerate(parts.values(), start=1):
            index = [number + 1 for number in numbers]
            lookup[index] = segment_id
            segments.append(_merge_infos([self._infos[n] for n in numbers], areas[index], segment_id))
        for row in ids:
            row[:] = lookup[row + 1]
        return self._ids, segments


def _merge_infos(infos: Sequence[SegmentInfo], areas: NDArray[np.int64], segment_id: int) -> SegmentInfo:
    """One segment from its parts: area-weighted mean score, source of the largest part."""
    total = int(areas.sum())
    score = sum(info["score"] * int(area) for info, area in zip(infos, areas, strict=True)) / total
    source: MaskOrigin = infos[int(areas.argmax())].get("source", "decoder")
    return {**infos[0], "id": segment_id, "area": total, "score": score, "source": source}


def _areas(ids: NDArray[np.int32]) -> dict[int, int]:
    numbers, counts = np.unique(ids, return_counts=True)
    return dict(zip(numbers.tolist(), counts.tolist(), strict=True))
