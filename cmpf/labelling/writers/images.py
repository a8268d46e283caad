# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Files of one image that are made of its pixels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cmpf.common.files import replacing

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
