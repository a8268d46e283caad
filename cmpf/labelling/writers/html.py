# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""A page of all results that opens without a network: thumbnails, to be filtered by class and score."""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmpf.common.files import write_text
from cmpf.labelling.journal import Entry
from cmpf.labelling.record import INSTANCE, PANOPTIC
from cmpf.labelling.writers.classes import Classes
from cmpf.labelling.writers.images import save_jpeg

if TYPE_CHECKING:
    from cmpf.inference import Prediction

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
