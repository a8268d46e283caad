# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Writes instances as polygons: YOLO datasets as documented by Ultralytics, and LabelMe files."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from cmpf.common.files import replacing, write_text
from cmpf.formats.polygons import mask_polygons, one_polygon
from cmpf.labelling.configuration import configured_vocabulary
from cmpf.labelling.journal import Entry
from cmpf.labelling.record import INSTANCE

YOLO_FOLDER, IMAGES, LABELS = "yolo", "images", "labels"
LABELME_VERSION = "5.5.0"  # of the file format; LabelMe also reads files of other versions


def write_yolo_labels(entry: Entry, folder: Path) -> list[Path]:
    """yolo/labels/NAME.txt and yolo/images/NAME.SUFFIX.

    The label file has a line for each instance: class index and polygon, normalized by width and height. The image is a
    symbolic link, or a copy where links are not allowed.
    """
    record, root = entry.record, folder / YOLO_FOLDER
    lines = []
    for segment in record.of_task(INSTANCE):
        polygon = one_polygon(mask_polygons(segment.mask()))
        if len(polygon):
            normalized = (polygon / (record.width, record.height)).reshape(-1)
            lines.append(" ".join([str(segment.category_id), *(f"{value:.6g}" for value in normalized)]))
    # Ultralytics looks for the labels where the last folder "images" of an image's path is replaced by "labels".
    before, _, after = f"/{IMAGES}/{entry.name}.txt".rpartition(f"/{IMAGES}/")
    path = root / f"{before}/{LABELS}/{after}".lstrip("/")
    with replacing(path, durable=False) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    image = Path(record.uri)
    if "://" in record.uri or not image.is_file():
        return [path]
    target = root / IMAGES / f"{entry.name}{image.suffix.lower()}"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.symlink(image.absolute(), target)
    except OSError:  # Windows requires a privilege
        shutil.copyfile(image, target)
    return [path, target]


def write_yolo_config(entries: Iterable[Entry], configuration: Mapping[str, Any], folder: Path) -> list[Path]:
    """yolo/data.yaml: the image folder and the classes; the training and validation images are the same."""
    path = folder / YOLO_FOLDER / "data.yaml"
    content = {
        "path": str(path.parent.absolute()),
        "train": IMAGES,
        "val": IMAGES,
        "names": dict(enumerate(configured_vocabulary(configuration).names)),
    }
    write_text(path, yaml.safe_dump(content, allow_unicode=True, sort_keys=False))
    return [path]


def write_labelme(entry: Entry, folder: Path) -> list[Path]:
    """labelme/NAME.json: a polygon for each part of an instance; parts of one instance share a group_id."""
    record = entry.record
    path = folder / "labelme" / f"{entry.name}.json"
    local = "://" not in record.uri
    shapes = [
        {
            "label": segment.category,
            "points": polygon.tolist(),
            "group_id": segment.id,
            "description": f"score {segment.score:.3f}",
            "shape_type": "polygon",
            "flags": {},
            "mask": None,
        }
        for segment in record.of_task(INSTANCE)
        for polygon in mask_polygons(segment.mask())
    ]
    content: dict[str, Any] = {
        "version": LABELME_VERSION,
        "flags": {},
        "shapes": shapes,
        "imagePath": os.path.relpath(record.uri, path.parent) if local else record.uri,
        "imageData": None,
        "imageHeight": record.height,
        "imageWidth": record.width,
    }
    with replacing(path, durable=False) as temporary:
        temporary.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8", errors="replace")
    return [path]
