# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Masks of images that are too large to hold all masks at the size of the image: each is made when it is read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cmpf.inference.resize import MaskRows, work_in_tiles

# Pixels, a byte each, of all masks of an image together, above which they are not held: those of 200 masks of
# 640 x 480. A hundred masks of an image of 81 megapixels would take 8 GB.
HELD_PIXELS = 2**26


class MaskSequence:
    """Reads as an array (N, H, W) of bool does, one mask at a time.

    `masks[3]` is the fourth mask (H, W); a list, a slice or flags give a sequence of some; iteration gives one after
    the other; numpy.asarray(masks) makes all, which takes N * H * W bytes.

    Args:
        masks: at the network's resolution.
        queries: (N,) numbers of those in the sequence.
        boxes: (N, 4) xyxy in pixels, tight around them; only the rows in a mask's box are made.
    """

    dtype = np.dtype(np.bool_)
    ndim = 3

    def __init__(self, masks: MaskRows, queries: Tensor, boxes: Tensor) -> None:
        self._masks = masks
        self._queries = queries.cpu()
        self._boxes = boxes.cpu()

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, H, W)."""
        return len(self._queries), *self._masks.size

    def __len__(self) -> int:
        return len(self._queries)

    def __iter__(self) -> Iterator[NDArray[np.bool_]]:
        return (self[place] for place in range(len(self)))

    def __getitem__(self, places: Any) -> Any:
        if isinstance(places, int | np.integer):
            return self._one(int(places))
        chosen = torch.from_numpy(np.arange(len(self))[places])
        return MaskSequence(self._masks, self._queries[chosen], self._boxes[chosen])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        every = np.empty(self.shape, dtype=np.bool_)
        for place, mask in enumerate(self):
            every[place] = mask
        return every if dtype is None else every.astype(dtype)

    @torch.no_grad()
    def _one(self, place: int) -> NDArray[np.bool_]:
        mask = np.zeros(self._masks.size, dtype=np.bool_)
        top, bottom = int(self._boxes[place, 1]), int(self._boxes[place, 3])
        chosen = self._queries[place : place + 1 or None].to(self._masks.device)

        def cut(rows: range) -> None:
            inner = range(top + rows.start, top + rows.stop)
            mask[inner.start : inner.stop] = (self._masks.rows(inner, chosen)[0] > 0).cpu().numpy()

        floats = self._masks.floats_per_row
        work_in_tiles(bottom - top, cut, floats_per_row=floats, device=self._masks.device)
        return mask


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
