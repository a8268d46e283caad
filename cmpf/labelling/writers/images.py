# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Writes overlays, label maps and arrays of single images, and an HTML page that shows all overlays."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmpf.common.files import write_text
from cmpf.formats.image import open_image, write_image
from cmpf.labelling.configuration import configured_vocabulary
from cmpf.labelling.journal import THUMBNAILS, Entry
from cmpf.labelling.record import INSTANCE, PANOPTIC

if TYPE_CHECKING:
    from PIL import Image

    from cmpf.inference import Prediction
JPEG_QUALITY = 90  # JPEG is written 50 times as fast as PNG and a fifth of its size
THUMBNAIL_SIZE = 400  # pixels, longer side


def save_jpeg(path: Path, image: Image.Image) -> Path:
    """Writes a JPEG atomically; returns its path."""
    return write_image(path, image, durable=False, quality=JPEG_QUALITY)


def write_overlay(prediction: Prediction, name: str, folder: Path) -> list[Path]:
    """NAME.jpg: the prediction drawn over the image."""
    return [save_jpeg(folder / f"{name}.jpg", prediction.plot())]


def write_semantic(prediction: Prediction, name: str, folder: Path) -> list[Path]:
    """NAME_semantic.png: 16-bit class indices, 65535 = no class."""
    return prediction.save(folder, ["semantic"], name=name)


def write_instances(prediction: Prediction, name: str, folder: Path) -> list[Path]:
    """NAME_instances.npz: arrays of masks, boxes, scores, labels, sources and class names."""
    return prediction.save(folder, ["instances"], name=name)


def write_thumbnail(prediction: Prediction, name: str, folder: Path) -> list[Path]:
    """thumbnails/NAME.jpg: a small copy of the overlay, which must exist."""
    with open_image(folder / f"{name}.jpg") as overlay:
        overlay.draft(None, (THUMBNAIL_SIZE, THUMBNAIL_SIZE))
        overlay.thumbnail((THUMBNAIL_SIZE, THUMBNAIL_SIZE))
        return [save_jpeg(folder / THUMBNAILS / f"{name}.jpg", overlay)]


def write_page(entries: Iterable[Entry], configuration: Mapping[str, Any], folder: Path) -> list[Path]:
    """index.html: all overlays, which can be filtered by class and score."""
    from cmpf.visualization.palette import class_color

    class_entries = []
    for index, name in enumerate(configured_vocabulary(configuration).names):
        red, green, blue = class_color(index, name)
        class_entries.append({"name": name, "color": f"rgb({red} {green} {blue})"})
    # ASCII, because file names may have bytes that are not valid UTF-8.
    content = json.dumps(
        {"classes": class_entries, "images": list(map(_image_entry, entries))}, ensure_ascii=True
    )
    template = (files("cmpf") / "assets" / "results_page.html").read_text(encoding="utf-8")
    path = folder / "index.html"
    write_text(path, template.replace("DATA", content.replace("<", "\\u003c"), 1))
    return [path]


def _image_entry(entry: Entry) -> dict[str, Any]:
    record = entry.record
    segments = record.of_task(PANOPTIC) or record.of_task(INSTANCE)
    return {
        "name": entry.name,
        "file": entry.file_name,
        "error": record.error,
        "found": [[segment.category_id, round(segment.score, 3)] for segment in segments],
    }
