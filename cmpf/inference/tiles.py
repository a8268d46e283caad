# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Tiled inference for large images with small objects, such as aerial and microscopy images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cmpf.inference.resize import argmax_channels, work_in_tiles
from cmpf.inference.semantic import mark_unlabeled
from cmpf.inference.settings import InferenceSettings, Tiling
from cmpf.inference.tile_grid import Tile, tile_grid
from cmpf.inference.tile_results import InstanceMerger, PanopticMerger
from cmpf.types import ModelResult, Sample


def segment_tiles(
    infer: Callable[..., list[ModelResult]],
    image: NDArray[np.uint8],
    make_sample: Callable[[NDArray[np.uint8]], Sample],
    settings: InferenceSettings,
    tiling: Tiling,
) -> ModelResult:
    """Segments an image (H, W, 3) tile by tile and merges the results.

    Args:
        infer: the model's inference function, called with a list of samples and `settings`.
        make_sample: makes a sample from the pixels of a tile.
        settings: inference settings. tiling: tile size, overlap and batch size.
    """
    size = image.shape[0], image.shape[1]
    merger = TileMerger(tile_grid(size, tiling), size, settings)
    tile_settings = replace(settings, semantic_output="lazy")
    tiles = merger.tiles()
    while batch := list(islice(tiles, tiling.batch_size)):
        results = infer([make_sample(tile.crop(image)) for tile in batch], settings=tile_settings)
        for tile, result in zip(batch, results, strict=True):
            merger.add(tile, result)
    return merger.result()


class TileMerger:
    """Merges the results of an image's tiles.

    Semantic: the weighted mean of the tiles' class scores; the weight of a pixel grows with its distance to the
    tile's border. Panoptic, instance: see PanopticMerger and InstanceMerger.

    Args:
        rows: tiles of the image, see tile_grid.
        size: (H, W) of the image.
        settings: tasks and selection.
    """

    def __init__(self, rows: list[list[Tile]], size: tuple[int, int], settings: InferenceSettings) -> None:
        self._rows, self._size, self._settings = rows, size, settings
        self._num_added = 0
        self._scores: list[tuple[Tile, Any]] = []
        self._labels = torch.empty(size if settings.semantic else (0, 0), dtype=torch.int32)
        self._panoptic = PanopticMerger(size) if settings.panoptic else None
        self._instances = InstanceMerger(size) if settings.instance else None

    def tiles(self) -> Iterator[Tile]:
        """All tiles, row by row."""
        return (tile for row in self._rows for tile in row)

    def add(self, tile: Tile, result: ModelResult) -> None:
        """Adds the result of the next tile, in the order of `tiles`; semantic results must be lazy scores."""
        if self._panoptic is not None:
            self._panoptic.add(tile, *result["panoptic_seg"])
        if self._instances is not None:
            self._instances.add(tile, result["instances"], self._settings.selection)
        if self._settings.semantic:
            self._scores.append((tile, result["semantic_scores"]))
            self._num_added += 1
            columns = len(self._rows[0])
            if self._num_added % columns == 0:
                self._label_finished_rows(self._num_added // columns)

    def result(self) -> ModelResult:
        """The merged result, after all tiles have been added."""
        merged: ModelResult = {}
        if self._settings.semantic:
            merged["sem_seg"] = self._labels
        if self._panoptic is not None:
            merged["panoptic_seg"] = self._panoptic.result()
        if self._instances is not None:
            selection = self._settings.selection
            merged["instances"] = self._instances.result(
                None if selection is None else selection.max_instances
            )
        return merged

    def _label_finished_rows(self, num_tile_rows: int) -> None:
        """Labels the pixels that no later tile covers, given the number of complete rows of tiles."""
        first = self._rows[num_tile_rows - 1][0].rows.start
        last = self._rows[num_tile_rows][0].rows.start if num_tile_rows < len(self._rows) else self._size[0]
        classes = self._scores[0][1].classes
        per_row = classes * self._size[1] + max(scores.floats_per_row for _, scores in self._scores)

        def label(tile: range) -> None:
            rows = range(first + tile.start, first + tile.stop)
            self._labels[rows.start : rows.stop] = self._blend(rows, classes).cpu()

        work_in_tiles(last - first, label, floats_per_row=per_row, device=self._scores[0][1].device)
        self._scores = [(tile, scores) for tile, scores in self._scores if tile.rows.stop > last]

    def _blend(self, rows: range, classes: int) -> Tensor:
        """Labels (len(rows), W) of some rows of the image."""
        device = self._scores[0][1].device
        total = torch.zeros(classes, len(rows), self._size[1], device=device)
        total_weight = torch.zeros(len(rows), self._size[1], device=device)
        for tile, scores in self._scores:
            covered = range(max(rows.start, tile.rows.start), min(rows.stop, tile.rows.stop))
            if len(covered) == 0:
                continue
            inner = range(covered.start - tile.rows.start, covered.stop - tile.rows.start)
            weight = blend_weights(tile.size[0])[inner.start : inner.stop, None] * blend_weights(tile.size[1])
            index = (
                slice(covered.start - rows.start, covered.stop - rows.start),
                slice(tile.columns.start, tile.columns.stop),
            )
            total[(slice(None), *index)] += scores.rows(inner) * weight.to(device)
            total_weight[index] += weight.to(device)
        best, selection = argmax_channels(total), self._settings.selection
        if selection is not None and selection.background:
            best = mark_unlabeled(total.amax(dim=0) / total_weight, best, selection.min_semantic_score)
        return best


def blend_weights(side: int) -> Tensor:
    """(side,) float: distance of each pixel's center to the nearer end of the side: 0.5, 1.5, ..."""
    position = torch.arange(side) + 0.5
    return torch.minimum(position, side - position)
