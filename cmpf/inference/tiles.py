# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Work on an image in tiles of rows, so that temporaries do not grow with it."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

# Floats of one tile; temporaries take up to four times as much at the peak. A CPU is fastest with small tiles, which
# stay in its caches and below what the C library gives back to the system at once (two cores, 1024 x 2560, panoptic
# with 60 kept queries: 0.31 s at 2 M, 0.32 s at 4 M, 0.53 s at 8 M, 1.08 s at 16 M; semantic labels of 150 classes at
# 800 x 1333: 0.97, 0.96, 0.95 and 1.19 s).
CPU_FLOATS = 4 * 1024 * 1024
GPU_FLOATS = 32 * 1024 * 1024
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory")  # a GPU's allocator, and the CPU's


def work_in_tiles(
    height: int, work: Callable[[range], None], *, floats_per_row: float, device: torch.device
) -> None:
    """Calls `work` for ranges that split 0..height, at least one row each, of about the device's number of floats.

    Where memory runs out the same rows are tried again in tiles of half the height, with a line in the log.

    Args:
        work: gets a range of rows. What it changes outside it must change last, so that it can be called again.
    Raises:
        RuntimeError: whatever `work` raises; of lacking memory only when a single row does not fit.
    """
    floats = CPU_FLOATS if device.type == "cpu" else GPU_FLOATS
    rows = max(1, int(floats / max(1.0, floats_per_row)))
    first = 0
    while first < height:
        tile = range(first, min(first + rows, height))
        if _fits(work, tile):
            first = tile.stop
            continue
        rows = len(tile) // 2
        logger.warning("out of memory with %d rows of an image at once; going on with %d", len(tile), rows)
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _fits(work: Callable[[range], None], tile: range) -> bool:
    """Whether the memory was enough. The error is let go here: its traceback holds the tensors that filled it."""
    try:
        work(tile)
    except RuntimeError as error:
        lacking = isinstance(error, torch.OutOfMemoryError) or any(t in str(error) for t in _OUT_OF_MEMORY)
        if not lacking or len(tile) == 1:
            raise
        return False
    return True


@torch.no_grad()
def best_of(maps_Chw: Tensor) -> Tensor:
    """Index (h, w) int64 of the largest map at each pixel, the first among equals.

    It is `argmax` over the first dimension, which torch computes three times as slowly on a CPU.
    """
    count = len(maps_Chw)
    rank = torch.arange(count, 0, -1, device=maps_Chw.device, dtype=torch.float32)[:, None, None]
    is_best = torch.ge(maps_Chw, maps_Chw.amax(dim=0), out=torch.empty_like(maps_Chw, dtype=torch.float32))
    # Where a value is no number nothing is the best; any index will do there, but it must be one.
    return (count - is_best.mul_(rank).amax(dim=0)).long().clamp_(max=count - 1)
