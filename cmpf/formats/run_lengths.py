# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Masks as COCO writes them: polygons and run lengths."""

from __future__ import annotations

from typing import Any

from cmpf.errors import EvaluationError


def to_rle(segmentation: Any, *, height: int, width: int, where: str) -> dict[str, Any]:
    """Polygons, uncompressed or compressed run lengths as one compressed RLE.

    Args:
        segmentation: as in COCO files.
        height, width: of the image.
        where: opens the error message; names the file and the mask.
    Raises:
        EvaluationError: it is none of the three, or has another size than the image.
    """
    from pycocotools import mask as coco_mask

    try:
        if isinstance(segmentation, list):
            if not segmentation or min(len(polygon) for polygon in segmentation) < 6:
                raise ValueError("a polygon needs three points")
            rle = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
        elif isinstance(segmentation["counts"], list):
            rle = coco_mask.frPyObjects(segmentation, *segmentation["size"])
        else:
            rle = {"size": list(segmentation["size"]), "counts": segmentation["counts"]}
            coco_mask.area(rle)  # decodes it, so that a damaged one fails here, where its file is known
    except (TypeError, ValueError, KeyError, IndexError) as error:
        raise EvaluationError(f"{where} is neither polygons nor RLE ({error})") from error
    if list(rle["size"]) != [height, width]:
        raise EvaluationError(
            f"{where} is {tuple(rle['size'])} (H, W) in an image of {(height, width)}; "
            "masks must have the size of their image"
        )
    return dict(rle)
