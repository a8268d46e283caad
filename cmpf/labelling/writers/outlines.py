# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Outlines of instances: YOLO's datasets as Ultralytics documents them, and LabelMe's files for correction by hand."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from cmpf.common.files import replacing, write_text
from cmpf.formats.polygons import mask_polygons, one_polygon
from cmpf.labelling.journal import Entry
from cmpf.labelling.record import INSTANCE
from cmpf.labelling.writers.coco import Classes

FOLDER, IMAGES, LABELS = "yolo", "images", "labels"  # trainers look for labels where "images" is in the path


def write_labels(entry: Entry, folder: Path) -> list[Path]:
    """yolo/labels/NAME.txt: class index and outline of each instance, in shares of the image; and the image beside it.

    The image is a link to the file, or a copy where there are no links.
    """
    record, root = entry.record, folder / FOLDER
    lines = []
    for segment in record.of_task(INSTANCE):
        outline = one_polygon(mask_polygons(segment.mask()))
        if len(outline):
            shares = (outline / (record.width, record.height)).reshape(-1)
            lines.append(" ".join([str(segment.category_id), *(f"{share:.6g}" for share in shares)]))
    path = root / LABELS / f"{entry.name}.txt"
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
    except OSError:  # Windows asks for a privilege
        shutil.copyfile(image, target)
    return [path, target]


def write_data(entries: Iterable[Entry], classes: Classes, folder: Path) -> list[Path]:
    """yolo/data.yaml: where the images are, and the classes; the same images serve training and validation."""
    path = folder / FOLDER / "data.yaml"
    content = {
        "path": str(path.parent.absolute()),
        "train": IMAGES,
        "val": IMAGES,
        "names": dict(enumerate(classes.names)),
    }
    write_text(path, yaml.safe_dump(content, allow_unicode=True, sort_keys=False))
    return [path]


VERSION = "5.5.0"  # of the files; LabelMe reads those of other versions, too


def write_shapes(entry: Entry, folder: Path) -> list[Path]:
    """labelme/NAME.json: a polygon for each part of an instance; those of one instance have one group_id."""
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
        "version": VERSION,
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
