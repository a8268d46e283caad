# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Back from the network's mask resolution to the image's: whole, or a tile of rows at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from cmpf.common.tensors import resize_bilinear


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
        self._masks = mask_logits_Qhw
        self._padded, self._unpadded, self._output = padded, unpadded, output
        self.shape = (mask_logits_Qhw.shape[0], *output)
        self.device = mask_logits_Qhw.device
        # A row of the output may need more rows of the input.
        self.floats_per_row = max(padded[1], output[1]) * max(1.0, unpadded[0] / output[0])

    @classmethod
    def of(cls, masks: Tensor | MaskRows) -> MaskRows:
        """Masks (Q, H, W) that have the output size already, or what is one of these."""
        if isinstance(masks, MaskRows):
            return masks
        size = (masks.shape[1], masks.shape[2])
        return cls(masks, padded=size, unpadded=size, output=size)

    def rows(self, rows: range, queries_N: Tensor) -> Tensor:
        """(N, len(rows), W) float: some rows of some masks, what `restore_size` has there."""
        inner = source_rows(rows, source=self._unpadded[0], target=self._output[0])
        tile = source_rows(inner, source=self._masks.shape[1], target=self._padded[0])
        masks = self._masks[:, tile.start : tile.stop][queries_N].float()
        masks = resize_rows(masks, inner, tile=tile, source=self._masks.shape[1], target=self._padded)[
            ..., : self._unpadded[1]
        ]
        return resize_rows(masks, rows, tile=inner, source=self._unpadded[0], target=self._output)


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
    if source != height:
        position = _positions(rows, source, height)
        upper = position.long()
        lower = (upper + 1).clamp(max=source - 1)
        index = torch.stack([upper, lower]).to(tile_Chw.device) - tile.start
        fraction = (position - upper)[:, None].to(tile_Chw)
        tile_Chw = torch.lerp(tile_Chw[:, index[0]], tile_Chw[:, index[1]], fraction)
    else:
        tile_Chw = tile_Chw[:, rows.start - tile.start : rows.stop - tile.start]
    return resize_bilinear(tile_Chw[None], (len(rows), width))[0]


def _positions(rows: range, source: int, target: int) -> Tensor:
    """Where rows of a resized map lie in its source, in source rows; float64, as in `source_rows`."""
    wanted = torch.arange(rows.start, rows.stop, dtype=torch.float64)
    return ((wanted + 0.5) * (source / target) - 0.5).clamp(min=0)
