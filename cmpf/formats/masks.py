# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Masks as COCO stores them: polygons, run lengths, and run lengths packed into text."""

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
RLE: TypeAlias = dict[str, Any]  # size [H, W] and packed counts
POLYGON_NUMBERS = 6  # three points; pycocotools takes four numbers for a box
FAR_AWAY = 10  # sides of the image that a point of a polygon may lie outside
MAX_PIXELS = 2**28  # of a mask, one byte each; no image that is read has more
MAX_PACKED_LETTERS = 7  # of one run length: 35 bits


def segmentation_issue(segmentation: Any, *, height: int, width: int) -> str:
    """What is wrong with a `segmentation`, or ""; no mask is made."""
    if height * width > MAX_PIXELS:
        return f"a mask in an image of {[height, width]}, more than {MAX_PIXELS:,} pixels"
    if isinstance(segmentation, list):
        lengths = [len(polygon) if isinstance(polygon, list) else 0 for polygon in segmentation]
        if not lengths or min(lengths) < POLYGON_NUMBERS or any(length % 2 for length in lengths):
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
    return _packed_issue(counts, height * width)


def _points_issue(polygons: list[list[Any]], height: int, width: int) -> str:
    """Coordinates that are no numbers, or so far away that pycocotools would need gigabytes for the edges between."""
    far = FAR_AWAY * max(height, width)
    for polygon in polygons:
        # A file may hold a million of them: first at the speed of C. The sum tells of NaN, which min and max may miss.
        usual = set(map(type, polygon)) <= {int, float} and -far <= min(polygon) and max(polygon) <= far
        if usual and math.isfinite(sum(polygon)):
            continue
        for value in polygon:
            if isinstance(value, bool) or not isinstance(value, int | float) or not -far <= value <= far:
                return f"a polygon with the coordinate {str(value)[:40]} in an image of {[height, width]}"
    return ""


def _packed_issue(counts: Any, pixels: int) -> str:
    """What is wrong with packed run lengths. pycocotools reads memory that is not its own where they are too short."""
    try:
        text = counts.encode("ascii") if isinstance(counts, str) else bytes(memoryview(counts))
    except (TypeError, UnicodeEncodeError):
        return "packed run lengths that are no ASCII text"
    # Six bits a letter: five of the number, lowest first, and one that says that more follow.
    values = np.frombuffer(text, dtype=np.uint8).astype(np.int64) - 48
    if values.size == 0 or values.min() < 0 or values.max() > 63 or values[-1] & 32:
        return "packed run lengths that are cut off or damaged"
    ends = np.flatnonzero((values & 32) == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > MAX_PACKED_LETTERS:
        return "packed run lengths that are damaged"
    shifts = 5 * (np.arange(values.size) - np.repeat(starts, lengths))
    runs = np.add.reduceat((values & 31) << shifts, starts)
    runs -= np.where(values[ends] & 16, np.int64(1) << (5 * lengths), 0)
    for first in (1, 2):  # from the fourth on, each is the difference to the last but one
        runs[first::2] = np.cumsum(runs[first::2])
    if (runs < 0).any() or int(runs.sum()) != pixels:
        return f"packed run lengths of {int(runs.sum())} pixels, or negative ones, in an image of {pixels}"
    return ""


def to_rle(segmentation: Any, *, height: int, width: int, where: str) -> RLE:
    """A `segmentation` of any of the three forms as packed run lengths, which can be unpacked.

    Args:
        height, width: of the image.
        where: opens the error message; names the file and the mask.
    Raises:
        DatasetError: it has another form or another size, or run lengths that cannot be unpacked.
    """
    return _packed(segmentation, height, width, where)


def decode_mask(segmentation: Any, *, height: int, width: int, where: str) -> Mask:
    """The mask (H, W) of a `segmentation`; arguments and errors as to_rle."""
    return _unpacked(_packed(segmentation, height, width, where), where)


def _packed(segmentation: Any, height: int, width: int, where: str) -> RLE:
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


def _unpacked(rle: RLE, where: str) -> Mask:
    from pycocotools import mask as coco_mask

    try:
        mask: Mask = coco_mask.decode(rle).astype(np.bool_)
    except (TypeError, ValueError) as error:
        raise DatasetError(f"{where}: cannot be decoded ({error}); repair the annotations") from error
    return mask


def encode_mask(
    mask: NDArray[Any], *, corner: tuple[int, int] = (0, 0), size: tuple[int, int] | None = None
) -> RLE:
    """A mask as run lengths packed into text, as JSON files hold them.

    Args:
        mask: (H, W), or a window (h, w) of it outside of which nothing is.
        corner: the window's first row and column. size: (H, W); None = the mask is whole.
    """
    from pycocotools import mask as coco_mask

    height, width = size or mask.shape
    runs = _runs(mask, corner, height)
    lengths = np.diff(runs, prepend=0, append=height * width) if len(runs) else np.array([height * width])
    if len(lengths) > 1 and lengths[-1] == 0:  # inside up to the end
        lengths = lengths[:-1]
    rle = {"size": [int(height), int(width)], "counts": lengths.tolist()}
    return {**rle, "counts": coco_mask.frPyObjects(rle, height, width)["counts"].decode("ascii")}


def _runs(mask: NDArray[Any], corner: tuple[int, int], height: int) -> NDArray[np.int64]:
    """Where runs of a mask's pixels begin and end, one after the other, counted down the columns of the whole image."""
    x, y, w, h = mask_box(mask) if mask.any() else (0, 0, 0, 0)
    # A column each, with a gap after it, in which every run ends.
    columns = np.zeros((w, h + 1), dtype=np.bool_)
    columns[:, :h] = mask[y : y + h, x : x + w].T
    flat = columns.reshape(-1)
    changes = np.flatnonzero(np.diff(flat, prepend=False))
    column, row = np.divmod(changes, h + 1)
    places = (column + x + corner[1]) * height + row + y + corner[0]
    if h < height:
        return places
    # Runs that go on at the top of the next column are one.
    joined = places[1:-1:2] == places[2::2]
    stay = np.ones(len(places), dtype=np.bool_)
    stay[1:-1:2] = stay[2::2] = ~joined
    return places[stay]


def rle_area(rle: RLE) -> int:
    """Pixels of a mask."""
    from pycocotools import mask as coco_mask

    return int(coco_mask.area(rle))


def rle_box(rle: RLE) -> list[float]:
    """COCO's [x, y, width, height] around a mask; zeros where it has no pixel."""
    from pycocotools import mask as coco_mask

    box: list[float] = coco_mask.toBbox(rle).tolist()
    return box


def mask_box(mask: Mask) -> list[int]:
    """COCO's [x, y, width, height] around a mask (H, W) with at least one pixel."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    x, y = int(columns[0]), int(rows[0])
    return [x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1]


def write_arrays(path: str | Path, **arrays: Any) -> None:
    """An NPZ file as np.savez_compressed writes it, whole or not at all; of each array a row is in memory at a time.

    Args:
        arrays: NumPy's, without objects, or what has a dtype and a shape and gives one row after the other.
    """
    import zipfile

    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            head = {
                "descr": np.lib.format.dtype_to_descr(array.dtype),
                "fortran_order": False,
                "shape": array.shape,
            }
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array_header_2_0(file, head)
                for row in array:
                    file.write(np.ascontiguousarray(row, dtype=array.dtype).tobytes())
