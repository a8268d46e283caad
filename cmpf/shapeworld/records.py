# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""A scene as COCO files: image, panoptic and semantic PNG, and the entries of the JSON files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from cmpf.shapeworld.categories import CATEGORIES, Category
from cmpf.shapeworld.scene import Scene

JPEG_QUALITY = 92


@dataclass(frozen=True)
class Record:
    """JSON entries of one image; the ids of its instances are those of its segments, to be made unique."""

    image: dict[str, Any]
    panoptic: dict[str, Any]
    instances: list[dict[str, Any]]


def coco_categories(categories: tuple[Category, ...]) -> list[dict[str, Any]]:
    """COCO category entries; the id is the contiguous index + 1."""
    return [{"id": c.id + 1, "name": c.name, "isthing": int(c.isthing)} for c in categories]


def id_to_rgb(ids: NDArray[np.int32]) -> NDArray[np.uint8]:
    """COCO's panoptic colors: (H, W) ids -> (H, W, 3) uint8 with id = R + 256 G + 65536 B."""
    return np.stack([ids & 255, ids >> 8 & 255, ids >> 16 & 255], axis=-1).astype(np.uint8)


def _bounding_box(mask: NDArray[np.bool_]) -> list[int]:
    """COCO's [x, y, width, height] of a mask with at least one pixel."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    x, y = int(columns[0]), int(rows[0])
    return [x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1]


def _run_lengths(mask: NDArray[np.bool_]) -> dict[str, Any]:
    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode("ascii")}


def _segment_entries(scene: Scene, image_id: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Panoptic segments_info, and instance annotations of the things."""
    segments, instances = [], []
    for segment in scene.segments:
        mask = scene.ids == segment.id
        entry: dict[str, Any] = {
            "id": segment.id,
            "category_id": segment.category_id + 1,
            "area": int(np.count_nonzero(mask)),
            "bbox": _bounding_box(mask),
            "iscrowd": 0,
        }
        segments.append(entry)
        if CATEGORIES[segment.category_id].isthing:
            instances.append({**entry, "image_id": image_id, "segmentation": _run_lengths(mask)})
    return segments, instances


def write_record(scene: Scene, folder: Path, *, image_id: int) -> Record:
    """Writes images/ID.jpg, panoptic/ID.png and semantic/ID.png below `folder` and returns the JSON entries.

    The semantic PNG holds the contiguous class index; 255 (ignore) does not occur, as each pixel has a class.
    """
    stem = f"{image_id:06d}"
    Image.fromarray(scene.image).save(folder / "images" / f"{stem}.jpg", quality=JPEG_QUALITY, subsampling=0)
    Image.fromarray(id_to_rgb(scene.ids)).save(folder / "panoptic" / f"{stem}.png")
    class_of_id = np.array([255] + [segment.category_id for segment in scene.segments], np.uint8)
    Image.fromarray(class_of_id[scene.ids]).save(folder / "semantic" / f"{stem}.png")
    height, width = scene.ids.shape
    segments, instances = _segment_entries(scene, image_id)
    return Record(
        image={
            "id": image_id,
            "file_name": f"{stem}.jpg",
            "height": height,
            "width": width,
            "caption": scene.caption,
        },
        panoptic={"image_id": image_id, "file_name": f"{stem}.png", "segments_info": segments},
        instances=instances,
    )
