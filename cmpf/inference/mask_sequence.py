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

# Pixels of all masks of an image together, above which they are not held: 2.7 images of 1 megapixel with 100 masks. A
# hundred masks of an image of 81 megapixels would take 8 GB.
HELD_PIXELS = 2**28


class MaskSequence:
    """Reads as an array (N, H, W) of bool does, one mask at a time.

    `masks[3]` is the fourth mask (H, W); a list, a slice or flags give a sequence of some; iteration gives one after
    the other; numpy.asarray(masks) makes all, which takes N * H * W bytes.

    Args:
        masks: at the network's resolution.
        queries: (N,) numbers of those in the sequence.
    """

    dtype = np.dtype(np.bool_)
    ndim = 3

    def __init__(self, masks: MaskRows, queries: Tensor) -> None:
        self._masks = masks
        self._queries = queries.cpu()

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
            return self._one(int(self._queries[int(places)]))
        chosen = np.arange(len(self))[places]
        return MaskSequence(self._masks, self._queries[torch.from_numpy(chosen)])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        every = np.empty(self.shape, dtype=np.bool_)
        for place, mask in enumerate(self):
            every[place] = mask
        return every if dtype is None else every.astype(dtype)

    @torch.no_grad()
    def _one(self, query: int) -> NDArray[np.bool_]:
        height, width = self._masks.size
        mask = np.empty((height, width), dtype=np.bool_)
        chosen = torch.tensor([query], device=self._masks.device)

        def cut(rows: range) -> None:
            mask[rows.start : rows.stop] = (self._masks.rows(rows, chosen)[0] > 0).cpu().numpy()

        work_in_tiles(height, cut, floats_per_row=self._masks.floats_per_row, device=self._masks.device)
        return mask
