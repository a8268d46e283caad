# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Segmentation masks in COCO's formats: polygons, uncompressed RLE and compressed RLE."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cmpf.common.files import replacing
from cmpf.errors import DatasetError

Mask: TypeAlias = NDArray[np.bool_]  # (H, W)
RLE: TypeAlias = dict[str, Any]  # compressed: "size" [H, W], and "counts" as text or bytes
MIN_POLYGON_NUMBERS = 6  # three points; pycocotools reads four numbers as a box
# How far outside the image a polygon's point may lie, in multiples of the image's longer side.
MAX_OUTSIDE = 10
MAX_PIXELS = 2**28  # of a mask, one byte each; more than in any image that is read
MAX_COUNT_CHARACTERS = 7  # of one run length in compressed RLE: 35 bits


def segmentation_issue(segmentation: Any, *, height: int, width: int) -> str:
    """Says what is wrong with a COCO `segmentation`, "" if nothing; does not decode it."""
    if height * width > MAX_PIXELS:
        return f"a mask in an image of {[height, width]}, more than {MAX_PIXELS:,} pixels"
    if isinstance(segmentation, list):
        lengths = [len(polygon) if isinstance(polygon, list) else 0 for polygon in segmentation]
        if not lengths or min(lengths) < MIN_POLYGON_NUMBERS or any(length % 2 for length in lengths):
            return "a polygon needs three points, x and y of each"
        return _points_issue(segmentation, height, width)
    if not isinstance(segmentation, Mapping) or not {"size", "counts"} <= segmentation.keys():
        return "neither polygons nor run lengths with size and counts"
    size, counts = segmentation["size"], segmentation["counts"]
    if not isinstance(size, list | tuple) or list(size) != [height, width]:
        return f"run lengths of size {size} in an image of {[height, width]}"
    if isinstance(counts, list):
        if not all(type(count) is int and count >= 0 for count in counts):
            return "run lengths that are no whole numbers of 0 or more"
        if sum(counts) != height * width:
            return f"run lengths of {sum(counts)} pixels in an image of {height * width}"
        return ""
    return _compressed_issue(counts, height * width)


def _points_issue(polygons: list[list[Any]], height: int, width: int) -> str:
    """Checks for coordinates that are no numbers, or so far outside that pycocotools would need gigabytes."""
    limit = MAX_OUTSIDE * max(height, width)
    for polygon in polygons:
        # Fast path with builtins, for files with a million polygons. The sum detects NaN, which min and max may miss.
        in_range = (
            set(map(type, polygon)) <= {int, float} and -limit <= min(polygon) and max(polygon) <= limit
        )
        if in_range and math.isfinite(sum(polygon)):
            continue
        for value in polygon:
            if isinstance(value, bool) or not isinstance(value, int | float) or not -limit <= value <= limit:
                return f"a polygon with the coordinate {str(value)[:40]} in an image of {[height, width]}"
    return ""


def _compressed_issue(counts: Any, pixels: int) -> str:
    """Checks compressed counts; pycocotools reads out of bounds where they are too short."""
    try:
        text = counts.encode("ascii") if isinstance(counts, str) else bytes(memoryview(counts))
    except (TypeError, UnicodeEncodeError):
        return "packed run lengths that are no ASCII text"
    # Six bits per character: five bits of the number, least significant first, and a continuation bit.
    values = np.frombuffer(text, dtype=np.uint8).astype(np.int64) - 48
    if values.size == 0 or values.min() < 0 or values.max() > 63 or values[-1] & 32:
        return "packed run lengths that are cut off or damaged"
    ends = np.flatnonzero((values & 32) == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > MAX_COUNT_CHARACTERS:
        return "packed run lengths that are damaged"
    shifts = 5 * (np.arange(values.size) - np.repeat(starts, lengths))
    runs = np.add.reduceat((values & 31) << shifts, starts)
    runs -= np.where(values[ends] & 16, np.int64(1) << (5 * lengths), 0)
    for first in (
        1,
        2,
    ):  # from the fourth on, each count is stored as the difference to the one before the previous
        runs[first::2] = np.cumsum(runs[first::2])
    if (runs < 0).any() or int(runs.sum()) != pixels:
        return f"packed run lengths of {int(runs.sum())} pixels, or negative ones, in an image of {pixels}"
    return ""


def to_rle(segmentation: Any, *, height: int, width: int, where: str) -> RLE:
    """Converts a COCO `segmentation` (polygons, uncompressed or compressed RLE) to compressed RLE.

    Args:
        height, width: size of the image.
        where: start of error messages; names the file and the mask.
    Raises:
        DatasetError: the segmentation has another form or size, or cannot be decoded.
    """
    from pycocotools import mask as coco_mask

    issue = segmentation_issue(segmentation, height=height, width=width)
    if issue:
        raise DatasetError(f"{where}: {issue}; repair the annotations")
    try:
        if isinstance(segmentation, list):
            return dict(coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width)))
        if isinstance(segmentation["counts"], list):
            return dict(coco_mask.frPyObjects(segmentation, height, width))
    except (TypeError, ValueError) as error:
        raise DatasetError(f"{where}: cannot be decoded ({error}); repair the annotations") from error
    return {"size": [height, width], "counts": segmentation["counts"]}


def decode_mask(segmentation: Any, *, height: int, width: int, where: str) -> Mask:
    """Decodes a COCO `segmentation` to a mask (H, W); arguments and errors as to_rle."""
    from pycocotools import mask as coco_mask

    rle = to_rle(segmentation, height=height, width=width, where=where)
    try:
        mask: Mask = coco_mask.decode(rle).astype(np.bool_)
    except (TypeError, ValueError) as error:
        raise DatasetError(f"{where}: cannot be decoded ({error}); repair the annotations") from error
    return mask


def encode_mask(
    mask: NDArray[Any], *, corner: tuple[int, int] = (0, 0), size: tuple[int, int] | None = None
) -> RLE:
    """Encodes a mask as compressed RLE with text counts, ready for JSON.

    Args:
        mask: (H, W), or a window (h, w) of a mask that is empty outside the window.
        corner: first row and column of the window.
        size: (H, W) of the whole mask; None = `mask` is the whole mask.
    """
    from pycocotools import mask as coco_mask

    height, width = size or mask.shape
    boundaries = _run_boundaries(mask, corner, height)
    lengths = np.diff(boundaries, prepend=0, append=height * width)
    if len(lengths) > 1 and lengths[-1] == 0:  # the last pixel is inside the mask
        lengths = lengths[:-1]
    rle = {"size": [int(height), int(width)], "counts": lengths.tolist()}
    return {**rle, "counts": coco_mask.frPyObjects(rle, height, width)["counts"].decode("ascii")}


def _run_boundaries(mask: NDArray[Any], corner: tuple[int, int], height: int) -> NDArray[np.int64]:
    """Alternating starts and ends of the runs of mask pixels, as column-major indices into the whole image."""
    x, y, w, h = mask_box(mask) if mask.any() else (0, 0, 0, 0)
    # One row per column of the mask, plus an empty pixel that ends every run.
    columns = np.zeros((w, h + 1), dtype=np.bool_)
    columns[:, :h] = mask[y : y + h, x : x + w].T
    flat = columns.reshape(-1)
    changes = np.flatnonzero(np.diff(flat, prepend=False))
    column, row = np.divmod(changes, h + 1)
    boundaries = (column + x + corner[1]) * height + row + y + corner[0]
    if h < height:
        return boundaries
    # Merge runs that continue at the top of the next column.
    continued = boundaries[1:-1:2] == boundaries[2::2]
    keep = np.ones(len(boundaries), dtype=np.bool_)
    keep[1:-1:2] = keep[2::2] = ~continued
    return boundaries[keep]


def rle_area(rle: RLE) -> int:
    """Number of pixels in a mask."""
    from pycocotools import mask as coco_mask

    return int(coco_mask.area(rle))


def rle_box(rle: RLE) -> list[float]:
    """Bounding box of a mask as COCO's [x, y, width, height]; zeros for an empty mask."""
    from pycocotools import mask as coco_mask

    box: list[float] = coco_mask.toBbox(rle).tolist()
    return box


def mask_box(mask: Mask) -> list[int]:
    """Bounding box of a non-empty mask (H, W) as COCO's [x, y, width, height]."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    x, y = int(columns[0]), int(rows[0])
    return [x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1]


def write_arrays(path: str | Path, **arrays: Any) -> None:
    """Writes an NPZ file like np.savez_compressed, atomically and with one row of each array in memory at a time.

    Args:
        arrays: NumPy arrays (no object dtype), or iterables of rows that have `dtype` and `shape`.
    """
    import zipfile

    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            header = {
                "descr": np.lib.format.dtype_to_descr(array.dtype),
                "fortran_order": False,
                "shape": array.shape,
            }
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array_header_2_0(file, header)
                for row in array:
                    file.write(np.ascontiguousarray(row, dtype=array.dtype).tobytes())
