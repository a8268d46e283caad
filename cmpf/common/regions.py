# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Clean-up of binary masks (small islands and holes), and selection of instances without duplicates."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Masks = NDArray[np.bool_]
_BIT_COUNTS = np.array([bin(byte).count("1") for byte in range(256)], dtype=np.uint8)  # set bits of a byte


def remove_islands(masks_NHW: Masks, *, min_share: float) -> Masks:
    """Removes regions smaller than a fraction (0 .. 1) of the largest region of their mask."""
    regions = _Regions(masks_NHW)
    return regions.only(regions.areas >= min_share * regions.largest()[regions.mask_of])


def remove_small_regions(masks_NHW: Masks, *, min_area: float) -> Masks:
    """Fills holes, then removes islands, smaller than `min_area`, as segment-anything does.

    Background regions at the image's border count as holes. If all islands of a mask are small, the largest is kept.

    Args:
        masks_NHW: masks; not modified.
        min_area: in pixels; 0 = keep everything.
    Returns:
        (N, H, W) cleaned masks.
    """
    if min_area == 0 or not masks_NHW.any():
        return masks_NHW
    occupied = masks_NHW.any(axis=(1, 2), keepdims=True)
    holes = _Regions(~masks_NHW)
    regions = _Regions(masks_NHW | (holes.only(holes.areas < min_area) & occupied))
    areas, mask_of = regions.areas, regions.mask_of
    first = np.full(len(masks_NHW), len(areas))
    largest = areas == regions.largest()[mask_of]
    np.minimum.at(first, mask_of[largest], np.flatnonzero(largest))
    kept = areas >= min_area
    kept[first[first < len(areas)]] = True
    return regions.only(kept)


class _Regions:
    """8-connected regions of each mask, by connecting runs of pixels in a row with runs of the row above.

    Same regions in the same order as `scipy.ndimage.label` in a third of the time, and without importing scipy, which
    takes a tenth of the time to a first prediction.

    Attributes:
        areas: pixels of each region.
        mask_of: index of the mask that each region belongs to.
    """

    def __init__(self, masks_NHW: Masks) -> None:
        self.shape = masks_NHW.shape
        rows, self._width = len(masks_NHW) * masks_NHW.shape[1], masks_NHW.shape[2] + 1
        pixels = np.zeros((rows, self._width), dtype=np.bool_)  # an empty column at the end ends every run
        pixels[:, :-1] = masks_NHW.reshape(rows, self._width - 1)
        changes = np.flatnonzero(np.diff(pixels.reshape(-1), prepend=False))
        self._starts, self._ends = changes[::2], changes[1::2]
        roots = self._roots()
        is_root = roots == np.arange(len(roots))
        self._region_of_run = (np.cumsum(is_root) - 1)[roots]
        areas = np.zeros(np.count_nonzero(is_root), dtype=np.int64)
        np.add.at(areas, self._region_of_run, self._ends - self._starts)
        self.areas = areas
        self.mask_of: NDArray[np.int64] = self._starts[is_root] // (self._width * self.shape[1])

    def largest(self) -> NDArray[np.int64]:
        """Area of the largest region of each mask; 0 if it is empty."""
        largest = np.zeros(self.shape[0], dtype=np.int64)
        np.maximum.at(largest, self.mask_of, self.areas)
        return largest

    def only(self, kept: NDArray[np.bool_]) -> Masks:
        """Masks (N, H, W) of the regions for which `kept` is True."""
        changes = np.zeros(self.shape[0] * self.shape[1] * self._width, dtype=np.bool_)
        runs = kept[self._region_of_run]
        changes[self._starts[runs]] = changes[self._ends[runs]] = True
        pixels = np.logical_xor.accumulate(changes).reshape(*self.shape[:2], self._width)
        return pixels[..., :-1]

    def _roots(self) -> NDArray[np.int64]:
        """Index of the first run of each run's region (union-find)."""
        above, below = self._adjacent_runs()
        roots = np.arange(len(self._starts))
        while len(above):
            a, b = roots[above], roots[below]
            np.minimum.at(roots, np.maximum(a, b), np.minimum(a, b))
            while True:  # path compression
                compressed = roots[roots]
                if np.array_equal(compressed, roots):
                    break
                roots = compressed
            separate = roots[above] != roots[below]
            above, below = above[separate], below[separate]
        return roots

    def _adjacent_runs(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """All pairs of a run and a run in the next row that touch, at least at a corner."""
        starts, ends = self._starts - self._width, self._ends - self._width  # shifted to the row above
        low = np.searchsorted(self._ends, starts, side="left")
        high = np.searchsorted(self._starts, ends, side="right")
        in_first_row = self._starts // self._width % self.shape[1] == 0
        counts = np.where(in_first_row, 0, np.maximum(high - low, 0))
        below = np.repeat(np.arange(len(counts)), counts)
        nth = np.arange(len(below)) - np.repeat(np.cumsum(counts) - counts, counts)
        return low[below] + nth, below


def select_instances(
    masks: Any, scores: NDArray[np.floating[Any]], min_score: float, max_overlap: float
) -> list[int]:
    """Selects instances, best first: not empty, with a sufficient score, and without duplicates.

    Args:
        masks: N masks (H, W) bool, an array or a sequence.
        scores: (N,) scores.
        min_score: minimum score.
        max_overlap: maximum IoU of an instance with a better one.
    Returns:
        Indices of the selected instances.
    """
    # Index -> first non-empty row, packed bits from there to the last one, and area.
    chosen: dict[int, tuple[int, NDArray[np.uint8], int]] = {}
    for i in np.argsort(-scores, kind="stable").tolist():
        if scores[i] < min_score:
            break
        mask = masks[i]
        filled = np.flatnonzero(mask.any(axis=1))
        if len(filled) == 0:
            continue
        top, bottom = int(filled[0]), int(filled[-1]) + 1
        bits = np.packbits(mask[top:bottom], axis=1)
        area = int(_BIT_COUNTS[bits].sum(dtype=np.int64))
        common = [_intersection(top, bits, *other[:2]) for other in chosen.values()]
        ious = [c / (area + other[2] - c) for c, other in zip(common, chosen.values(), strict=True)]
        if all(iou <= max_overlap for iou in ious):
            chosen[i] = top, bits, area
    return list(chosen)


def _intersection(top: int, bits: NDArray[np.uint8], other_top: int, other_bits: NDArray[np.uint8]) -> int:
    """Number of common pixels of two masks, given as packed rows from a first row on."""
    first, last = max(top, other_top), min(top + len(bits), other_top + len(other_bits))
    if first >= last:
        return 0
    both = bits[first - top : last - top] & other_bits[first - other_top : last - other_top]
    return int(_BIT_COUNTS[both].sum(dtype=np.int64))
