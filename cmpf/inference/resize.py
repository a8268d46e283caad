# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Back from the network's mask resolution to the image's: whole, or a tile of rows at a time."""

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

# Floats of one tile; temporaries take up to four times as much at the peak. Small tiles stay in a CPU's caches, large
# ones need fewer calls, and fresh memory takes longer than what is computed in it. Milliseconds at 512 K, 1 M, 2 M and
# 4 M (two threads): 5 masks that compete at 640 x 480 26, 23, 20, 14; 60 of them 222, 188, 173, 196; semantic sums of
# 250 masks at 800 x 1066 2200, 1700, 1000, 2000.
CPU_FLOATS = 2 * 1024 * 1024
MANY = 64  # masks that a CPU resizes so much faster masks last that what it does with them may take longer
GPU_FLOATS = 32 * 1024 * 1024
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory")  # a GPU's allocator, and the CPU's


def restore_size(
    mask_logits_BQhw: Tensor,
    *,
    padded: tuple[int, int],
    unpadded: tuple[int, int],
    output: tuple[int, int],
) -> Tensor:
    """Upsamples masks to the padded input, cuts the padding off, resizes to the output size; all bilinear.

    Args:
        mask_logits_BQhw: masks as the network gives them.
        padded, unpadded, output: (H, W) of the padded input, the input, and the wanted result.
    Returns:
        (B, Q, H, W) at the output size.
    """
    masks = resize_bilinear(mask_logits_BQhw, padded)[..., : unpadded[0], : unpadded[1]]
    return resize_bilinear(masks, output)


class MaskRows:
    """Masks at the output size, of which only the rows at work exist: whole they are the largest tensor of all.

    Args:
        mask_logits_Qhw: masks as the network gives them.
        padded, unpadded, output: (H, W) as in `restore_size`.
    Attributes:
        shape: (Q, H, W) at the output size. floats_per_row: what one mask needs for one row of it.
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
        # A row of the output may need more rows of the input.
        self.floats_per_row = max(padded[1], output[1]) * max(1.0, unpadded[0] / output[0])

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the output."""
        return self.shape[1], self.shape[2]

    @classmethod
    def of(cls, masks: Tensor | MaskRows) -> MaskRows:
        """Masks (Q, H, W) that have the output size already, or what is one of these."""
        if isinstance(masks, MaskRows):
            return masks
        size = (masks.shape[1], masks.shape[2])
        return cls(masks, padded=size, unpadded=size, output=size)

    def joined(self, other: MaskRows) -> MaskRows:
        """These masks and, numbered after them, those of another source; both of one output size."""
        both = copy(self)
        both._sources = [*self._sources, *other._sources]
        both.shape = (self.shape[0] + other.shape[0], *self.size)
        both.floats_per_row = max(self.floats_per_row, other.floats_per_row)
        return both

    def chosen(self, queries_N: Tensor) -> MaskRows:
        """Some of the masks; those of several sources in the order of their numbers, whatever that of `queries_N`."""
        some, first = copy(self), 0
        some._sources = []
        for source in self._sources:
            count = len(source.masks)
            own = queries_N
            if len(self._sources) > 1:
                own = own[(own >= first) & (own < first + count)] - first
            some._sources.append(replace(source, masks=source.masks[own]))
            first += count
        some.shape = (len(queries_N), *self.size)
        return some

    def rows(self, rows: range) -> Tensor:
        """(Q, len(rows), W) float: what `restore_size` has in some rows; many masks may lie in memory masks last."""
        found = [source.rows(rows, self.size) for source in self._sources]
        return found[0] if len(found) == 1 else torch.cat(found)

    def rows_last(self, rows: range) -> Tensor:
        """(len(rows), W, Q) float: as `rows`, the masks last, in which order a CPU resizes many of them eight times as
        fast."""
        found = [source.rows_last(rows, self.size) for source in self._sources]
        return found[0] if len(found) == 1 else torch.cat(found, dim=2)


@dataclass(frozen=True)
class _Source:
    """Masks (Q, h, w) of one size, and how they lie in the image; see `restore_size`."""

    masks: Tensor
    padded: tuple[int, int]
    unpadded: tuple[int, int]

    def rows(self, rows: range, output: tuple[int, int]) -> Tensor:
        if self.masks.device.type == "cpu" and len(self.masks) >= MANY:
            return self.rows_last(rows, output).permute(2, 0, 1)
        height = self.masks.shape[1]
        inner, tile = self._read_for(rows, output)
        masks = self.masks[:, tile.start : tile.stop].float()
        masks = resize_rows(masks, inner, tile=tile, source=height, target=self.padded)
        return resize_rows(
            masks[..., : self.unpadded[1]], rows, tile=inner, source=self.unpadded[0], target=output
        )

    def rows_last(self, rows: range, output: tuple[int, int]) -> Tensor:
        height = self.masks.shape[1]
        inner, tile = self._read_for(rows, output)
        masks = self._masks_last[tile.start : tile.stop]
        masks = _resize_rows_last(masks, inner, tile=tile, source=height, target=self.padded)
        masks = masks[:, : self.unpadded[1]]
        return _resize_rows_last(masks, rows, tile=inner, source=self.unpadded[0], target=output)

    @cached_property
    def _masks_last(self) -> Tensor:
        return self.masks.float().permute(1, 2, 0).contiguous()

    def _read_for(self, rows: range, output: tuple[int, int]) -> tuple[range, range]:
        """Rows of the unpadded input, and of the masks, that rows of the output are made of."""
        inner = source_rows(rows, source=self.unpadded[0], target=output[0])
        return inner, source_rows(inner, source=self.masks.shape[1], target=self.padded[0])


def source_rows(rows: range, *, source: int, target: int) -> range:
    """Rows of a map of height `source` that `resize_rows` reads for `rows` of a map of height `target`."""
    first, last = (max(0.0, (row + 0.5) * (source / target) - 0.5) for row in (rows[0], rows[-1]))
    return range(int(first), min(int(last) + 2, source))


def resize_rows(
    tile_Chw: Tensor, rows: range, *, tile: range, source: int, target: tuple[int, int]
) -> Tensor:
    """Some rows of a bilinear resize, from no more than the rows they need.

    Args:
        tile_Chw: rows `tile` of a map of height `source`.
        rows: wanted rows of the result.
        target: (H, W) of the whole result.
    Returns:
        (C, len(rows), W), what `resize_bilinear` of the whole map has in these rows.
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
    """(C, rows, W): what lies between two rows, as in `resize_rows`.

    Rows that lie equally far from the one above are `target / gcd` apart and made by one call: 5 calls from 192 to 480.
    """
    wide = torch.cat([wide_ChW[:, :1], wide_ChW, wide_ChW[:, -1:]], dim=1)  # beyond the edges as at them
    common = math.gcd(source, target)
    step, period = source // common, target // common
    result = wide.new_empty(len(wide), len(rows), wide.shape[2])
    for first in range(min(period, len(rows))):
        position = (rows[first] + 0.5) * (source / target) - 0.5
        above = math.floor(position)
        alike = result[:, first::period]
        start = above - tile.start + 1
        stop = start + step * (alike.shape[1] - 1) + 1
        torch.lerp(
            wide[:, start:stop:step], wide[:, start + 1 : stop + 1 : step], position - above, out=alike
        )
    return result


def _neighbors(
    rows: range, tile: range, source: int, target: int, *, like: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Of rows of a resized map: the rows above and below in its source, counted in the tile, and how far below the
    first each lies, (len(rows),) each."""
    position = _positions(rows, source, target)
    upper = position.long()
    index = torch.stack([upper, (upper + 1).clamp(max=source - 1)]) - tile.start
    above, below = index.to(like.device)
    return above, below, (position - upper).to(like)


def _positions(rows: range, source: int, target: int) -> Tensor:
    """Where rows of a resized map lie in its source, in source rows; float64, as in `source_rows`."""
    wanted = torch.arange(rows.start, rows.stop, dtype=torch.float64)
    return ((wanted + 0.5) * (source / target) - 0.5).clamp(min=0)


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
