# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Small islands and holes of a binary mask."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_EIGHT_NEIGHBORS = np.ones((3, 3), dtype=np.int8)


def remove_small_regions(mask_HW: NDArray[np.bool_], *, min_area: int) -> NDArray[np.bool_]:
    """Fills holes, then drops islands, of fewer than `min_area` pixels; the same rule as segment-anything's.

    Regions are 8-connected. Background that touches the image's edge is a hole like any other. Where every
    island is small, the largest one stays.

    Args:
        mask_HW: the mask; not changed.
        min_area: in pixels; 0 = keep everything.
    Returns:
        The cleaned mask.
    """
    if min_area == 0 or not mask_HW.any():
        return mask_HW
    # Rows above the mask are all alike, and so are those below it and the columns beside it. One of each,
    # with their number as its weight, makes a small mask cheap and keeps areas and connections exact.
    row_of, first_rows, row_counts = _collapse(np.asarray(mask_HW.any(axis=1)))
    column_of, first_columns, column_counts = _collapse(np.asarray(mask_HW.any(axis=0)))
    mask = mask_HW[np.ix_(first_rows, first_columns)]
    cell_areas = np.outer(row_counts, column_counts)
    labels, areas = _regions(~mask, cell_areas)
    mask = mask | (~mask & (areas < min_area)[labels])
    labels, areas = _regions(mask, cell_areas)
    kept = areas >= min_area
    if not kept[1:].any():
        kept[1 + np.argmax(areas[1:])] = True
    mask = mask & kept[labels]
    cleaned: NDArray[np.bool_] = mask[np.ix_(row_of, column_of)]
    return cleaned


def _collapse(occupied: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Lines before the first and after the last occupied one become a single line each.

    Returns:
        For each line its number afterwards; for each number the first line behind it, and how many there are.
    """
    lines = np.nonzero(occupied)[0]
    clipped = np.clip(np.arange(len(occupied)), lines[0] - 1, lines[-1] + 1)
    _, first, new_number, counts = np.unique(
        clipped, return_index=True, return_inverse=True, return_counts=True
    )
    return new_number, first, counts


def _regions(mask: NDArray[np.bool_], cell_areas: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Number of each cell's region, 0 = outside, and the areas of all regions, that of the outside first."""
    from scipy import ndimage

    labels, count = ndimage.label(mask, structure=_EIGHT_NEIGHBORS)
    return labels, np.bincount(labels.ravel(), weights=cell_areas.ravel(), minlength=count + 1)
