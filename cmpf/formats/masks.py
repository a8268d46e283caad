# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Masks as COCO stores them: polygons, run lengths, and run lengths packed into text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

POLYGON_NUMBERS = 6  # three points; pycocotools takes four numbers for a box


def segmentation_issue(segmentation: Any, *, height: int, width: int) -> str:
    """What is wrong with the form of a `segmentation`, or ""; nothing is decoded."""
    if isinstance(segmentation, list):
        lengths = [len(polygon) if isinstance(polygon, list) else 0 for polygon in segmentation]
        if not lengths or min(lengths) < POLYGON_NUMBERS or any(length % 2 for length in lengths):
            return "a polygon needs three points, x and y of each"
        return ""
    if not isinstance(segmentation, Mapping) or not {"size", "counts"} <= segmentation.keys():
        return "neither polygons nor run lengths with size and counts"
    if list(segmentation["size"]) != [height, width]:
        return f"run lengths of size {segmentation['size']} in an image of {[height, width]}"
    counts = segmentation["counts"]
    if isinstance(counts, list) and sum(counts) != height * width:
        return f"run lengths of {sum(counts)} pixels in an image of {height * width}"
    return ""


def decode_segmentation(segmentation: Any, *, height: int, width: int) -> NDArray[np.bool_]:
    """The mask (H, W) of a `segmentation` of any of the three forms.

    Raises:
        ValueError: it has another form, or run lengths that cannot be unpacked.
    """
    from pycocotools import mask as coco_mask

    issue = segmentation_issue(segmentation, height=height, width=width)
    if issue:
        raise ValueError(issue)
    try:
        if isinstance(segmentation, list):
            rle = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
        elif isinstance(segmentation["counts"], list):
            rle = coco_mask.frPyObjects(segmentation, height, width)
        else:
            rle = {"size": [height, width], "counts": segmentation["counts"]}
        mask: NDArray[np.bool_] = coco_mask.decode(rle).astype(np.bool_)
    except (TypeError, ValueError) as error:
        raise ValueError(f"cannot be decoded ({error})") from error
    return mask
