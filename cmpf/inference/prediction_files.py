# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The files that a prediction is saved as: one writer a format, each file whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from cmpf.common.files import replacing, write_text
from cmpf.errors import CMPFError
from cmpf.inference.conversions import coco_panoptic, coco_panoptic_colors

if TYPE_CHECKING:
    from cmpf.inference.prediction import Prediction

Writer = Callable[["Prediction", Path, str], "list[Path]"]


def write_overlay(prediction: Prediction, folder: Path, stem: str) -> list[Path]:
    """NAME.png, the image with what was found drawn over it."""
    return [_image(folder / f"{stem}.png", prediction.plot())]


def write_panoptic(prediction: Prediction, folder: Path, stem: str) -> list[Path]:
    """NAME_panoptic.png and NAME_panoptic.json as COCO has them."""
    png, table = folder / f"{stem}_panoptic.png", folder / f"{stem}_panoptic.json"
    _image(png, Image.fromarray(coco_panoptic_colors(prediction.panoptic)))
    return [png, _json(table, coco_panoptic(prediction.segments, stem, png.name))]


def write_coco(prediction: Prediction, folder: Path, stem: str) -> list[Path]:
    """NAME_instances.json, COCO results."""
    return [_json(folder / f"{stem}_instances.json", prediction.to_coco())]


def write_instances(prediction: Prediction, folder: Path, stem: str) -> list[Path]:
    """NAME_instances.npz for numpy: masks, boxes, scores, labels, and names of all classes."""
    path, found = folder / f"{stem}_instances.npz", prediction.instances
    with replacing(path) as temporary:
        np.savez_compressed(
            temporary,
            masks=found.masks,
            boxes=found.boxes,
            scores=found.scores,
            labels=found.labels,
            names=np.array(prediction.names, dtype=str),  # text, not objects: read without pickle
        )
    return [path]


def write_semantic(prediction: Prediction, folder: Path, stem: str) -> list[Path]:
    """NAME_semantic.png, 16-bit class indices."""
    return [_image(folder / f"{stem}_semantic.png", Image.fromarray(prediction.semantic))]


WRITERS: dict[str, Writer] = {
    "overlay": write_overlay,
    "panoptic": write_panoptic,
    "coco": write_coco,
    "semantic": write_semantic,
    "instances": write_instances,
}
FORMATS = tuple(WRITERS)


def check_formats(formats: object) -> tuple[str, ...]:
    """The formats, each once.

    Raises:
        CMPFError: one is unknown, or a string stands in place of the list.
    """
    names = formats if isinstance(formats, list | tuple) else (formats,)
    for name in names:
        if name not in FORMATS:
            raise CMPFError(f"format {name!r} is unknown; choose from {', '.join(FORMATS)}")
    return tuple(dict.fromkeys(names))


def _image(path: Path, image: Image.Image) -> Path:
    with replacing(path) as temporary:
        image.save(temporary)
    return path


def _json(path: Path, content: Any) -> Path:
    write_text(path, json.dumps(content, ensure_ascii=False))
    return path
