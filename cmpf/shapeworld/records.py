# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Writes a scene as image, panoptic PNG and label map, and creates its COCO JSON entries."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cmpf.formats.coco_json import segment_entry
from cmpf.formats.image import write_image
from cmpf.formats.label_map import write_labels, write_panoptic_ids
from cmpf.formats.masks import encode_mask
from cmpf.shapeworld.categories import CATEGORIES, Category
from cmpf.shapeworld.scene import Scene

JPEG_QUALITY = 92


@dataclass(frozen=True)
class Record:
    """COCO JSON entries of one image. The ids of its instances are segment ids, unique only within the image."""

    image: dict[str, Any]
    panoptic: dict[str, Any]
    instances: list[dict[str, Any]]


def coco_categories(categories: tuple[Category, ...]) -> list[dict[str, Any]]:
    """COCO category entries, with class index + 1 as id."""
    return [{"id": c.id + 1, "name": c.name, "isthing": int(c.isthing)} for c in categories]


def _segment_entries(scene: Scene, image_id: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The segments_info of a scene, and the instance annotations of its things."""
    segments, instances = [], []
    for segment in scene.segments:
        mask = scene.ids == segment.id
        entry = segment_entry(mask, segment_id=segment.id, category_id=segment.category_id + 1)
        segments.append(entry)
        if CATEGORIES[segment.category_id].isthing:
            instances.append({**entry, "image_id": image_id, "segmentation": encode_mask(mask)})
    return segments, instances


def write_record(scene: Scene, folder: Path, *, image_id: int) -> Record:
    """Writes images/ID.jpg, panoptic/ID.png and semantic/ID.png below `folder`, and returns the JSON entries.

    The label map holds class indices; the ignore label 255 does not occur, because every pixel has a class.
    """
    stem = f"{image_id:06d}"
    jpeg = {"quality": JPEG_QUALITY, "subsampling": 0}
    write_image(folder / "images" / f"{stem}.jpg", scene.image, durable=False, **jpeg)
    write_panoptic_ids(folder / "panoptic" / f"{stem}.png", scene.ids, durable=False)
    class_of_id = np.array([255] + [segment.category_id for segment in scene.segments], np.uint8)
    write_labels(folder / "semantic" / f"{stem}.png", class_of_id[scene.ids], durable=False)
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
