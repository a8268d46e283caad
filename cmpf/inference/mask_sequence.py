# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Masks of images that are too large to hold all masks at the size of the image: each is made when it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cmpf.inference.resize import MaskRows, work_in_tiles

# Pixels, one byte each, of all masks of an image together, above which they are not held: those of 100 masks of
# 640 x 480. A hundred masks of an image of 81 megapixels would take 8 GB.
HELD_PIXELS = 2**25


class MaskSequence:
    """Reads as an array (N, H, W) of bool does, one mask at a time.

    `masks[3]` is the fourth mask (H, W); a list, a slice or flags give a sequence of some; iteration gives one after
    the other; numpy.asarray(masks) makes all, which takes N * H * W bytes.

    Args:
        make: draws a mask, by its number, into an array (H, W) of False.
        numbers: (N,) int64, of the masks in the sequence.
        size: (H, W).
    """

    dtype = np.dtype(np.bool_)
    ndim = 3

    def __init__(
        self,
        make: Callable[[int, NDArray[np.bool_]], None],
        numbers: NDArray[np.int64],
        size: tuple[int, int],
    ) -> None:
        self._make = make
        self._numbers = numbers
        self._size = size

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, H, W)."""
        return len(self._numbers), *self._size

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[NDArray[np.bool_]]:
        return (self[place] for place in range(len(self)))

    def __getitem__(self, places: Any) -> Any:
        if not isinstance(places, int | np.integer):
            return MaskSequence(self._make, self._numbers[places], self._size)
        mask = np.zeros(self._size, dtype=np.bool_)
        self._make(int(self._numbers[places]), mask)
        return mask

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        every = np.zeros(self.shape, dtype=np.bool_)
        for mask, number in zip(every, self._numbers.tolist(), strict=True):
            self._make(number, mask)
        return every if dtype is None else every.astype(dtype)


def mask_sequence(masks: MaskRows, queries_N: Tensor, boxes_N4: Tensor) -> MaskSequence:
    """Masks that are kept at the network's resolution.

    Args:
        queries_N: numbers of those in the sequence.
        boxes_N4: xyxy in pixels, tight around them; only the rows in a mask's box are made.
    """
    queries, boxes = queries_N.cpu(), boxes_N4.cpu().long()

    @torch.no_grad()
    def make(number: int, mask: NDArray[np.bool_]) -> None:
        top, bottom = int(boxes[number, 1]), int(boxes[number, 3])
        chosen = masks.chosen(queries[number : number + 1].to(masks.device))

        def cut(rows: range) -> None:
            inner = range(top + rows.start, top + rows.stop)
            mask[inner.start : inner.stop] = (chosen.rows(inner)[0] > 0).cpu().numpy()

        work_in_tiles(bottom - top, cut, floats_per_row=masks.floats_per_row, device=masks.device)

    return MaskSequence(make, np.arange(len(queries)), masks.size)


class ThinnedMasks:
    """Every step-th row and column of each of many masks (N, H, W), which are read one at a time."""

    def __init__(self, masks: NDArray[np.bool_] | MaskSequence, step: int) -> None:
        self._masks = masks
        self._step = step

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, H, W), rounded up."""
        count, height, width = self._masks.shape
        return count, -(-height // self._step), -(-width // self._step)

    def __getitem__(self, place: int) -> NDArray[np.bool_]:
        mask: NDArray[np.bool_] = self._masks[place][:: self._step, :: self._step]
        return mask
