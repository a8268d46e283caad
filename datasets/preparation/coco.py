# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""COCO panoptic and instance files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle

from cmpf.common.files import write_text
from cmpf.errors import DatasetError


def read_json(path: Path, lists: Sequence[str] = ()) -> dict[str, Any]:
    """A JSON object.

    Args:
        lists: keys that must hold lists.
    Raises:
        DatasetError: missing, damaged, or without one of the lists.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise DatasetError(
            f"{path}: damaged, no whole JSON file ({error}); fetch or make it again"
        ) from error
    for key in lists:
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DatasetError(f"{path}: not in COCO's form, it has no list {key!r}")
    return dict(content)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replaces a JSON file, whole."""
    write_text(path, json.dumps(content))


def categories(names: Iterable[str], things: Iterable[bool], *, first: int = 0) -> list[dict[str, Any]]:
    """The list `categories` of a panoptic file: ids count from `first`."""
    pairs = zip(names, things, strict=True)
    return [{"id": i, "name": n, "isthing": int(t)} for i, (n, t) in enumerate(pairs, start=first)]


def segments_info(ids: NDArray[np.int64], category_of: Callable[[int], int]) -> list[dict[str, Any]]:
    """The list `segments_info` of an image: every id but 0, with area and box.

    Args:
        ids: (H, W) segment ids.
        category_of: segment id -> category id.
    """
    values, flat = np.unique(ids, return_inverse=True)
    segments = np.reshape(flat, ids.shape)
    areas = np.bincount(segments.ravel(), minlength=len(values))
    return [
        {
            "id": int(value),
            "category_id": category_of(int(value)),
            "area": int(areas[index]),
            "bbox": _box(segments == index),
            "iscrowd": 0,
        }
        for index, value in enumerate(values)
        if value
    ]


def instance_annotation(mask: NDArray[np.bool_], *, category_id: int, iscrowd: int = 0) -> dict[str, Any]:
    """An entry of `annotations` of an instances file, but for `id` and `image_id`; the mask as RLE text.

    Args:
        mask: (H, W), at least one pixel.
    """
    encoded = rle.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {
        "category_id": category_id,
        "iscrowd": iscrowd,
        "area": int(np.count_nonzero(mask)),
        "bbox": _box(mask),
        "segmentation": {"size": list(mask.shape), "counts": encoded["counts"].decode("ascii")},
    }


def _box(mask: NDArray[np.bool_]) -> list[int]:
    """COCO's [x, y, width, height]."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    x, y = int(columns[0]), int(rows[0])
    return [x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1]
