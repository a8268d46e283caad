# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Images that are segmented tile by tile, as those of airplanes and microscopes, in which objects are small."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cmpf.inference.resize import best_of, work_in_tiles
from cmpf.inference.settings import InferenceSettings, Tiling, unlabeled
from cmpf.inference.tile_grid import Tile, tile_rows
from cmpf.inference.tile_results import InstancePieces, PanopticPieces
from cmpf.types import ModelResult, Sample


def segment_tiles(
    infer: Callable[..., list[ModelResult]],
    image: NDArray[np.uint8],
    sample: Callable[[NDArray[np.uint8]], Sample],
    settings: InferenceSettings,
) -> ModelResult:
    """The result of an image (H, W, 3) from its tiles.

    Args:
        infer: the model, called with a list of samples and `settings`. sample: one of them, from the pixels of a tile.
        settings: with `tiling`.
    """
    tiling = settings.tiling or Tiling(max(image.shape[:2]))
    size = image.shape[0], image.shape[1]
    joiner = TileJoiner(tile_rows(size, tiling), size, settings)
    tiles = joiner.tiles()
    while chunk := list(islice(tiles, tiling.batch_size)):
        found = infer([sample(tile.of(image)) for tile in chunk], settings=joiner.asked())
        for tile, result in zip(chunk, found, strict=True):
            joiner.add(tile, result)
    return joiner.result()


class TileJoiner:
    """The result of an image from those of its tiles, which come in the order of tile_rows.

    Semantic: the mean of the tiles' class scores, of which those of the tile count more in whose middle a pixel lies.
    Panoptic, instance: see PanopticPieces and InstancePieces.

    Args:
        rows: tiles of the image, see tile_rows. size: (H, W) of it.
        settings: the tasks, and what is left out.
    """

    def __init__(self, rows: list[list[Tile]], size: tuple[int, int], settings: InferenceSettings) -> None:
        self._rows, self._size, self._settings = rows, size, settings
        self._place = 0
        self._scores: list[tuple[Tile, Any]] = []
        self._labels = torch.empty(size if settings.semantic else (0, 0), dtype=torch.int32)
        self._panoptic = PanopticPieces(size) if settings.panoptic else None
        self._instances = InstancePieces(size) if settings.instance else None

    def tiles(self) -> Iterator[Tile]:
        """All tiles."""
        return (tile for row in self._rows for tile in row)

    def asked(self) -> InferenceSettings:
        """What the model is asked for of each tile."""
        return replace(self._settings, semantic_output="lazy", tiling=None)

    def add(self, tile: Tile, result: ModelResult) -> None:
        """The result of the next tile."""
        if self._panoptic is not None:
            self._panoptic.add(tile, *result["panoptic_seg"])
        if self._instances is not None:
            self._instances.add(tile, result["instances"], self._settings.selection)
        if self._settings.semantic:
            self._scores.append((tile, result["semantic_scores"]))
            self._place += 1
            columns = len(self._rows[0])
            if self._place % columns == 0:
                self._finish_rows(self._place // columns)

    def result(self) -> ModelResult:
        """After the last tile."""
        found: ModelResult = {}
        if self._settings.semantic:
            found["sem_seg"] = self._labels
        if self._panoptic is not None:
            found["panoptic_seg"] = self._panoptic.result()
        if self._instances is not None:
            selection = self._settings.selection
            found["instances"] = self._instances.result(
                None if selection is None else selection.max_instances
            )
        return found

    def _finish_rows(self, done: int) -> None:
        """Labels of what the tiles to come do not reach, when `done` rows of them are there."""
        first = self._rows[done - 1][0].rows.start
        last = self._rows[done][0].rows.start if done < len(self._rows) else self._size[0]
        label = range(first, last)
        classes = self._scores[0][1].classes
        per_row = classes * self._size[1] + max(scores.floats_per_row for _, scores in self._scores)

        def fill(rows: range) -> None:
            band = range(first + rows.start, first + rows.stop)
            self._labels[band.start : band.stop] = self._best(band, classes).cpu()

        work_in_tiles(len(label), fill, floats_per_row=per_row, device=self._scores[0][1].device)
        self._scores = [(tile, scores) for tile, scores in self._scores if tile.rows.stop > last]

    def _best(self, band: range, classes: int) -> Tensor:
        """Labels (rows, W) of a band of rows."""
        device = self._scores[0][1].device
        total = torch.zeros(classes, len(band), self._size[1], device=device)
        shares = torch.zeros(len(band), self._size[1], device=device)
        for tile, scores in self._scores:
            rows = range(max(band.start, tile.rows.start), min(band.stop, tile.rows.stop))
            if len(rows) == 0:
                continue
            inner = range(rows.start - tile.rows.start, rows.stop - tile.rows.start)
            weight = blend_weights(tile.size[0])[inner.start : inner.stop, None] * blend_weights(tile.size[1])
            place = (
                slice(rows.start - band.start, rows.stop - band.start),
                slice(tile.columns.start, tile.columns.stop),
            )
            total[(slice(None), *place)] += scores.rows(inner) * weight.to(device)
            shares[place] += weight.to(device)
        best, selection = best_of(total), self._settings.selection
        if selection is not None and selection.background:
            best = unlabeled(total.amax(dim=0) / shares, best, selection.min_semantic_score)
        return best


def blend_weights(side: int) -> Tensor:
    """(side,) float: how much each pixel of a tile counts, from its distance to the tile's nearer end: 0.5, 1.5, ..."""
    place = torch.arange(side) + 0.5
    return torch.minimum(place, side - place)
