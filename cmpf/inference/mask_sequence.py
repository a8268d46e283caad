# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Lazy instance masks of very large images: each mask is computed when it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cmpf.inference.resize import MaskRows, work_in_tiles

# Masks of an image are stored as one array up to this total number of pixels, one byte each: about 100 masks of
# 640 x 480. A hundred masks of 81 megapixels would take 8 GB.
HELD_PIXELS = 2**25


class MaskSequence:
    """A read-only sequence that behaves like a bool array (N, H, W) and computes each mask when it is read.

    `masks[3]` is the fourth mask (H, W); indexing by a list, a slice or a bool array returns a MaskSequence;
    `numpy.asarray(masks)` computes all masks, which takes N * H * W bytes.

    Args:
        draw: draws the mask of a given number into an all-False array (H, W).
        numbers: (N,) int64, numbers of the masks in the sequence.
        size: (H, W).
    """

    dtype = np.dtype(np.bool_)
    ndim = 3

    def __init__(
        self,
        draw: Callable[[int, NDArray[np.bool_]], None],
        numbers: NDArray[np.int64],
        size: tuple[int, int],
    ) -> None:
        self._draw = draw
        self._numbers = numbers
        self._size = size

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, H, W)."""
        return len(self._numbers), *self._size

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[NDArray[np.bool_]]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: Any) -> Any:
        if not isinstance(index, int | np.integer):
            return MaskSequence(self._draw, self._numbers[index], self._size)
        mask = np.zeros(self._size, dtype=np.bool_)
        self._draw(int(self._numbers[index]), mask)
        return mask

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        masks = np.zeros(self.shape, dtype=np.bool_)
        for mask, number in zip(masks, self._numbers.tolist(), strict=True):
            self._draw(number, mask)
        return masks if dtype is None else masks.astype(dtype)


def mask_sequence(masks: MaskRows, queries_N: Tensor, boxes_N4: Tensor) -> MaskSequence:
    """Lazy masks of some queries, which are stored at the network's resolution.

    Args:
        masks: masks of all queries.
        queries_N: indices of the queries in the sequence.
        boxes_N4: their tight boxes, xyxy in pixels; only rows inside a mask's box are computed.
    """
    queries, boxes = queries_N.cpu(), boxes_N4.cpu().long()

    @torch.no_grad()
    def draw(number: int, mask: NDArray[np.bool_]) -> None:
        top, bottom = int(boxes[number, 1]), int(boxes[number, 3])
        source = masks.chosen(queries[number : number + 1].to(masks.device))

        def draw_rows(tile: range) -> None:
            rows = range(top + tile.start, top + tile.stop)
            mask[rows.start : rows.stop] = (source.rows(rows)[0] > 0).cpu().numpy()

        work_in_tiles(bottom - top, draw_rows, floats_per_row=masks.floats_per_row, device=masks.device)

    return MaskSequence(draw, np.arange(len(queries)), masks.size)


class SubsampledMasks:
    """Every step-th row and column of masks (N, H, W), computed one mask at a time."""

    def __init__(self, masks: NDArray[np.bool_] | MaskSequence, step: int) -> None:
        self._masks = masks
        self._step = step

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, H, W), rounded up."""
        count, height, width = self._masks.shape
        return count, -(-height // self._step), -(-width // self._step)

    def __getitem__(self, index: int) -> NDArray[np.bool_]:
        mask: NDArray[np.bool_] = self._masks[index][:: self._step, :: self._step]
        return mask
