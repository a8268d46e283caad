# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Resizing of masks from the network's resolution to the image's, at once or a few rows at a time."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from cmpf.common.tensors import resize_bilinear

logger = logging.getLogger(__name__)

# Floats per tile of rows; peak memory is up to four times that. Small tiles fit into a CPU's caches, large ones need
# fewer calls. Milliseconds at 512 K, 1 M, 2 M and 4 M (two threads): panoptic inference of 5 masks at 640 x 480
# 26, 23, 20, 14; of 60 masks 222, 188, 173, 196; semantic sums of 250 masks at 800 x 1066 2200, 1700, 1000, 2000.
CPU_FLOATS = 2 * 1024 * 1024
GPU_FLOATS = 32 * 1024 * 1024
CHANNELS_LAST_MASKS = 64  # from this number of masks on, a CPU resizes them with masks as the last dimension
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory")  # messages of the CUDA and the CPU allocator


def restore_size(
    mask_logits_BQhw: Tensor,
    *,
    padded: tuple[int, int],
    unpadded: tuple[int, int],
    output: tuple[int, int],
) -> Tensor:
    """Upsamples masks to the padded input, crops the padding and resizes to the output size, bilinearly.

    Args:
        mask_logits_BQhw: masks at the network's resolution.
        padded, unpadded, output: (H, W) of the padded input, of the input, and of the result.
    Returns:
        (B, Q, H, W) at the output size.
    """
    masks = resize_bilinear(mask_logits_BQhw, padded)[..., : unpadded[0], : unpadded[1]]
    return resize_bilinear(masks, output)


class MaskRows:
    """Lazy `restore_size`: masks at the output size, computed a few rows at a time.

    All rows at once would be the largest tensor of inference.

    Args:
        mask_logits_Qhw: masks at the network's resolution.
        padded, unpadded, output: (H, W), see `restore_size`.
    Attributes:
        shape: (Q, H, W) at the output size.
        floats_per_row: memory that one output row of one mask needs, in floats.
    """

    def __init__(
        self,
        mask_logits_Qhw: Tensor,
        *,
        padded: tuple[int, int],
        unpadded: tuple[int, int],
        output: tuple[int, int],
    ) -> None:
        self._sources = [_Source(mask_logits_Qhw, padded, unpadded)]
        self.shape = (mask_logits_Qhw.shape[0], *output)
        self.device = mask_logits_Qhw.device
        # One output row may be computed from several input rows.
        self.floats_per_row = max(padded[1], output[1]) * max(1.0, unpadded[0] / output[0])

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the output."""
        return self.shape[1], self.shape[2]

    @classmethod
    def of(cls, masks: Tensor | MaskRows) -> MaskRows:
        """Wraps masks (Q, H, W) that already have the output size; returns MaskRows unchanged."""
        if isinstance(masks, MaskRows):
            return masks
        size = (masks.shape[1], masks.shape[2])
        return cls(masks, padded=size, unpadded=size, output=size)

    def joined(self, other: MaskRows) -> MaskRows:
        """Concatenates these masks and those of `other`, which has the same output size."""
        result = copy(self)
        result._sources = [*self._sources, *other._sources]
        result.shape = (self.shape[0] + other.shape[0], *self.size)
        result.floats_per_row = max(self.floats_per_row, other.floats_per_row)
        return result

    def chosen(self, queries_N: Tensor) -> MaskRows:
        """The masks at the given indices; of joined masks, those of the first source come first."""
        result, first = copy(self), 0
        result._sources = []
        for source in self._sources:
            count = len(source.masks)
            index = queries_N
            if len(self._sources) > 1:
                index = index[(index >= first) & (index < first + count)] - first
            result._sources.append(replace(source, masks=source.masks[index]))
            first += count
        result.shape = (len(queries_N), *self.size)
        return result

    def rows(self, rows: range) -> Tensor:
        """The given rows of what `restore_size` returns: (Q, len(rows), W) float, not always contiguous."""
        parts = [source.rows(rows, self.size) for source in self._sources]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def rows_last(self, rows: range) -> Tensor:
        """Same as `rows` with masks last, (len(rows), W, Q); a CPU resizes many masks eight times as fast this way."""
        parts = [source.rows_last(rows, self.size) for source in self._sources]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


@dataclass(frozen=True)
class _Source:
    """Masks (Q, h, w) with their padded and unpadded input sizes; see `restore_size`."""

    masks: Tensor
    padded: tuple[int, int]
    unpadded: tuple[int, int]

    def rows(self, rows: range, output: tuple[int, int]) -> Tensor:
        if self.masks.device.type == "cpu" and len(self.masks) >= CHANNELS_LAST_MASKS:
            return self.rows_last(rows, output).permute(2, 0, 1)
        height = self.masks.shape[1]
        inner, tile = self._source_rows(rows, output)
        masks = self.masks[:, tile.start : tile.stop].float()
        masks = resize_rows(masks, inner, tile=tile, source=height, target=self.padded)
        return resize_rows(
            masks[..., : self.unpadded[1]], rows, tile=inner, source=self.unpadded[0], target=output
        )

    def rows_last(self, rows: range, output: tuple[int, int]) -> Tensor:
        height = self.masks.shape[1]
        inner, tile = self._source_rows(rows, output)
        masks = self._masks_last[tile.start : tile.stop]
        masks = _resize_rows_last(masks, inner, tile=tile, source=height, target=self.padded)
        masks = masks[:, : self.unpadded[1]]
        return _resize_rows_last(masks, rows, tile=inner, source=self.unpadded[0], target=output)

    @cached_property
    def _masks_last(self) -> Tensor:
        return self.masks.float().permute(1, 2, 0).contiguous()

    def _source_rows(self, rows: range, output: tuple[int, int]) -> tuple[range, range]:
        """Rows of the unpadded input and of the masks from which the given output rows are computed."""
        inner = source_rows(rows, source=self.unpadded[0], target=output[0])
        return inner, source_rows(inner, source=self.masks.shape[1], target=self.padded[0])


def source_rows(rows: range, *, source: int, target: int) -> range:
    """Rows of a map of height `source` that `resize_rows` reads for `rows` of a map of height `target`."""
    first, last = (max(0.0, (row + 0.5) * (source / target) - 0.5) for row in (rows[0], rows[-1]))
    return range(int(first), min(int(last) + 2, source))


def resize_rows(
    tile_Chw: Tensor, rows: range, *, tile: range, source: int, target: tuple[int, int]
) -> Tensor:
    """Computes some rows of a bilinear resize from only the source rows that they depend on.

    Args:
        tile_Chw: rows `tile` of a map of height `source`.
        rows: requested rows of the result.
        target: (H, W) of the full result.
    Returns:
        (C, len(rows), W), equal to these rows of `resize_bilinear` of the full map.
    """
    height, width = target
    if source == height:
        tile_Chw = tile_Chw[:, rows.start - tile.start : rows.stop - tile.start]
        return resize_bilinear(tile_Chw[None], (len(rows), width))[0]
    if tile_Chw.device.type == "cpu" and len(rows) > len(tile) and not torch.is_grad_enabled():
        wide = resize_bilinear(tile_Chw[None], (len(tile), width))[0]
        return _lerp_rows(wide, rows, tile=tile, source=source, target=height)
    above, below, fraction = _neighbors(rows, tile, source, height, like=tile_Chw)
    mixed = torch.lerp(tile_Chw[:, above], tile_Chw[:, below], fraction[:, None])
    return resize_bilinear(mixed[None], (len(rows), width))[0]


def _resize_rows_last(
    tile_hwC: Tensor, rows: range, *, tile: range, source: int, target: tuple[int, int]
) -> Tensor:
    """`resize_rows` from (h, w, C) to (len(rows), W, C)."""
    height, width = target
    if source == height:
        mixed = tile_hwC[rows.start - tile.start : rows.stop - tile.start]
    else:
        above, below, fraction = _neighbors(rows, tile, source, height, like=tile_hwC)
        upper, lower = tile_hwC.index_select(0, above), tile_hwC.index_select(0, below)
        mixed = torch.lerp(upper, lower, fraction[:, None, None])
    return resize_bilinear(mixed[None].permute(0, 3, 1, 2), (len(rows), width)).permute(0, 2, 3, 1)[0]


def _lerp_rows(wide_ChW: Tensor, rows: range, *, tile: range, source: int, target: int) -> Tensor:
    """Vertical interpolation of `resize_rows`, (C, len(rows), W).

    Rows with the same interpolation weight are `target / gcd` apart and computed in one call: 5 calls from 192 to 480.
    """
    wide = torch.cat([wide_ChW[:, :1], wide_ChW, wide_ChW[:, -1:]], dim=1)  # replicate padding
    common = math.gcd(source, target)
    step, period = source // common, target // common
    result = wide.new_empty(len(wide), len(rows), wide.shape[2])
    for first in range(min(period, len(rows))):
        position = (rows[first] + 0.5) * (source / target) - 0.5
        above = math.floor(position)
        same_weight = result[:, first::period]
        start = above - tile.start + 1
        stop = start + step * (same_weight.shape[1] - 1) + 1
        upper, lower = wide[:, start:stop:step], wide[:, start + 1 : stop + 1 : step]
        torch.lerp(upper, lower, position - above, out=same_weight)
    return result


def _neighbors(
    rows: range, tile: range, source: int, target: int, *, like: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """For rows of a resized map: indices in the tile of the source rows above and below, and the interpolation weight
    of the lower one; (len(rows),) each."""
    position = _positions(rows, source, target)
    upper = position.long()
    index = torch.stack([upper, (upper + 1).clamp(max=source - 1)]) - tile.start
    above, below = index.to(like.device)
    return above, below, (position - upper).to(like)


def _positions(rows: range, source: int, target: int) -> Tensor:
    """Positions of rows of a resized map in its source, in source rows; float64, as in `source_rows`."""
    wanted = torch.arange(rows.start, rows.stop, dtype=torch.float64)
    return ((wanted + 0.5) * (source / target) - 0.5).clamp(min=0)


def work_in_tiles(
    height: int, work: Callable[[range], None], *, floats_per_row: float, device: torch.device
) -> None:
    """Calls `work` on consecutive ranges of rows that cover 0..height, sized for the device's memory and caches.

    If memory runs out, the same rows are retried in ranges of half the height and a warning is logged.

    Args:
        work: called with a range of rows. It must be safe to call again after it ran out of memory: outer state must
            change only at its end.
        floats_per_row: memory that one row needs, in floats.
    Raises:
        RuntimeError: `work` raised it; for lack of memory only if a single row does not fit.
    """
    floats = CPU_FLOATS if device.type == "cpu" else GPU_FLOATS
    rows = max(1, int(floats / max(1.0, floats_per_row)))
    first = 0
    while first < height:
        tile = range(first, min(first + rows, height))
        if _run_unless_out_of_memory(work, tile):
            first = tile.stop
            continue
        rows = len(tile) // 2
        logger.warning("out of memory with %d rows of an image at once; retrying with %d", len(tile), rows)
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _run_unless_out_of_memory(work: Callable[[range], None], tile: range) -> bool:
    """Returns False if memory ran out. The error must not leave this function: its traceback keeps tensors alive."""
    try:
        work(tile)
    except RuntimeError as error:
        is_oom = isinstance(error, torch.OutOfMemoryError) or any(t in str(error) for t in _OUT_OF_MEMORY)
        if not is_oom or len(tile) == 1:
            raise
        return False
    return True


@torch.no_grad()
def argmax_channels(maps_Chw: Tensor) -> Tensor:
    """`maps_Chw.argmax(dim=0)`, (h, w) int64, three times as fast on a CPU; ties give the first index."""
    count = len(maps_Chw)
    rank = torch.arange(count, 0, -1, device=maps_Chw.device, dtype=torch.float32)[:, None, None]
    is_best = torch.ge(maps_Chw, maps_Chw.amax(dim=0), out=torch.empty_like(maps_Chw, dtype=torch.float32))
    # With NaN no map equals the maximum; the clamp keeps the index in range.
    return (count - is_best.mul_(rank).amax(dim=0)).long().clamp_(max=count - 1)
