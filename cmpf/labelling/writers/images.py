# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Images that people look at: results drawn or saved beside each image, and the page that shows all of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmpf.common.files import replacing, write_text
from cmpf.labelling.journal import Entry
from cmpf.labelling.record import INSTANCE, PANOPTIC
from cmpf.labelling.writers.coco import Classes

if TYPE_CHECKING:
    from PIL import Image

    from cmpf.inference import Prediction


QUALITY = 90  # of JPEG, which is written 50 times as fast as PNG and has a fifth of its bytes


def save_jpeg(path: Path, image: Image.Image, quality: int = QUALITY) -> Path:
    """Writes a JPEG, whole or not at all; returns the path."""
    with replacing(path, durable=False) as temporary:
        image.save(temporary, format="JPEG", quality=quality)
    return path


def write_overlay(prediction: Prediction, name: str, folder: Path) -> list[Path]:
    """NAME.jpg: the image with what was found drawn over it."""
    return [save_jpeg(folder / f"{name}.jpg", prediction.plot())]


def write_semantic(prediction: Prediction, name: str, folder: Path) -> list[Path]:
    """NAME_semantic.png: class indices in 16 bits, 65535 = none."""
    return prediction.save(folder, ["semantic"], name=name)


def write_instances(prediction: Prediction, name: str, folder: Path) -> list[Path]:
    """NAME_instances.npz: masks, boxes, scores, labels, sources and names of the classes for NumPy."""
    return prediction.save(folder, ["instances"], name=name)


THUMBNAIL = 400  # pixels of the longer side
PAGE = "index.html"


def write_thumbnail(prediction: Prediction, name: str, folder: Path) -> list[Path]:
    """thumbnails/NAME.jpg: the overlay, small; that is written before."""
    from cmpf.formats.image import open_image

    with open_image(folder / f"{name}.jpg") as overlay:
        overlay.draft(None, (THUMBNAIL, THUMBNAIL))
        overlay.thumbnail((THUMBNAIL, THUMBNAIL))
        return [save_jpeg(folder / "thumbnails" / f"{name}.jpg", overlay)]


def write_page(entries: Iterable[Entry], classes: Classes, folder: Path) -> list[Path]:
    """index.html beside the overlays."""
    from cmpf.visualization.palette import class_color

    colors = [class_color(index, name) for index, name in enumerate(classes.names)]
    shown = [
        {"name": name, "color": f"rgb({red} {green} {blue})"}
        for name, (red, green, blue) in zip(classes.names, colors, strict=True)
    ]
    images = sorted(map(_image, entries), key=lambda image: str(image["file"]))
    content = json.dumps({"classes": shown, "images": images}, ensure_ascii=True)  # file names may be no text
    template = (files("cmpf") / "assets" / "results_page.html").read_text(encoding="utf-8")
    path = folder / PAGE
    write_text(path, template.replace("DATA", content.replace("<", "\\u003c"), 1))
    return [path]


def _image(entry: Entry) -> dict[str, Any]:
    record = entry.record
    segments = record.of_task(PANOPTIC) or record.of_task(INSTANCE)
    return {
        "name": entry.name,
        "file": entry.file_name,
        "error": record.error,
        "found": [[segment.category_id, round(segment.score, 3)] for segment in segments],
    }
