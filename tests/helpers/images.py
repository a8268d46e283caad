# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Images of every kind that users have; each writer takes a path without ending and returns the (H, W) to expect."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

Writer = Callable[[Path], tuple[int, int]]


def _noise(*shape: int, top: int = 255, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, top, shape).astype(dtype)


def _save(image: Image.Image, path: Path, ending: str, **options: object) -> tuple[int, int]:
    image.save(path.with_suffix(ending), **options)
    return image.height, image.width


def _rotated(path: Path) -> tuple[int, int]:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn by 90 degrees
    Image.fromarray(_noise(20, 30, 3)).save(path.with_suffix(".jpg"), exif=exif)
    return 30, 20


def odd_images() -> dict[str, Writer]:
    """Name -> writer."""
    return {
        "gray": lambda p: _save(Image.fromarray(_noise(20, 30)), p, ".png"),
        "rgba": lambda p: _save(Image.fromarray(_noise(20, 30, 4)), p, ".png"),
        "palette": lambda p: _save(Image.fromarray(_noise(20, 30, 3)).quantize(16), p, ".png"),
        "16-bit": lambda p: _save(Image.fromarray(_noise(20, 30, top=65535, dtype=np.uint16)), p, ".png"),
        "cmyk": lambda p: _save(Image.fromarray(_noise(20, 30, 3)).convert("CMYK"), p, ".jpg"),
        "rotated by exif": _rotated,
        "1 x 1": lambda p: _save(Image.fromarray(_noise(1, 1, 3)), p, ".png"),
        "6000 x 20": lambda p: _save(Image.fromarray(_noise(20, 6000, 3)), p, ".png"),
        "20 x 6000": lambda p: _save(Image.fromarray(_noise(6000, 20, 3)), p, ".png"),
    }
