# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Binary masks: islands that spoil a box, holes that SAM left, and several guesses at one object."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# 8-connected inside a mask, and no connection from one mask to the next.
_NEIGHBORS = np.stack([np.zeros((3, 3)), np.ones((3, 3)), np.zeros((3, 3))]).astype(bool)
Masks = NDArray[np.bool_]
_ONES = np.array([bin(byte).count("1") for byte in range(256)], dtype=np.uint8)  # bits of a byte


def remove_islands(masks_NHW: Masks, *, min_share: float) -> Masks:
    """Masks without the regions that are smaller than a share, 0..1, of the largest region of their mask."""
    labels, areas, mask_of = _regions(masks_NHW)
    return _keep(labels, areas >= min_share * _largest(areas, mask_of, len(masks_NHW))[mask_of])


def remove_small_regions(masks_NHW: Masks, *, min_area: float) -> Masks:
    """Fills holes, then drops islands, of an area below `min_area`; the same rule as segment-anything's.

    Background that touches the image's edge is a hole like any other. Where every island is small, the largest one
    stays.

    Args:
        masks_NHW: not changed.
        min_area: in pixels; 0 = keep everything.
    Returns:
        The cleaned masks.
    """
    if min_area == 0 or not masks_NHW.any():
        return masks_NHW
    occupied = masks_NHW.any(axis=(1, 2), keepdims=True)
    holes, areas, _ = _regions(~masks_NHW)
    filled = masks_NHW | (_keep(holes, areas < min_area) & occupied)
    labels, areas, mask_of = _regions(filled)
    first = np.full(len(masks_NHW), len(areas))
    largest = areas == _largest(areas, mask_of, len(masks_NHW))[mask_of]
    np.minimum.at(first, mask_of[largest], np.flatnonzero(largest))
    kept = areas >= min_area
    kept[first[first < len(areas)]] = True
    return _keep(labels, kept)


def _regions(masks_NHW: Masks) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Number of each cell's region, -1 outside of all; areas of the regions; the mask that each belongs to."""
    from scipy import ndimage  # a tenth of a second, which a model without SAM's masks need not wait for

    labels, count = ndimage.label(masks_NHW, structure=_NEIGHBORS)
    inside = labels[masks_NHW] - 1
    mask_of = np.zeros(count, dtype=np.int64)
    mask_of[inside] = masks_NHW.nonzero()[0]
    return labels.astype(np.int64) - 1, np.bincount(inside, minlength=count), mask_of


def _largest(areas: NDArray[np.int64], mask_of: NDArray[np.int64], masks: int) -> NDArray[np.int64]:
    """Area of the largest region of each mask, 0 where it has none."""
    largest = np.zeros(masks, dtype=np.int64)
    np.maximum.at(largest, mask_of, areas)
    return largest


def _keep(labels: NDArray[np.int64], kept: NDArray[np.bool_]) -> Masks:
    """Cells of the regions kept. The flag behind the last one is that of -1: outside."""
    return np.append(kept, False)[labels]


def worth_showing(
    masks: Any, scores: NDArray[np.floating[Any]], min_score: float, max_overlap: float
) -> list[int]:
    """Indices of instances to draw, best first: not empty, good enough, no other guess at a drawn one."""
    # Of each: first row, bits of its rows, which are an eighth of them at most, and area.
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
        area = int(_ONES[bits].sum(dtype=np.int64))
        shared = [_common(top, bits, *other[:2]) for other in chosen.values()]
        ious = [s / (area + other[2] - s) for s, other in zip(shared, chosen.values(), strict=True)]
        if all(iou <= max_overlap for iou in ious):
            chosen[i] = top, bits, area
    return list(chosen)


def _common(top: int, bits: NDArray[np.uint8], other_top: int, other_bits: NDArray[np.uint8]) -> int:
    """Pixels in both of two masks, of which there are the bits from some row on."""
    first, last = max(top, other_top), min(top + len(bits), other_top + len(other_bits))
    if first >= last:
        return 0
    both = bits[first - top : last - top] & other_bits[first - other_top : last - other_top]
    return int(_ONES[both].sum(dtype=np.int64))
