# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Images to try the page with: generated shapes, and photographs of scikit-image where it is installed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cmpf.shapeworld.categories import CATEGORIES
from cmpf.shapeworld.scene import generate_scene

SIZE = 512
SEEDS = (20, 25)
PHOTOGRAPHS = {
    "coffee": ("cup", "spoon", "saucer", "wooden table"),
    "chelsea": ("cat", "blanket", "wall"),
}


@dataclass(frozen=True)
class Example:
    """An image file, words for it, and the task that shows it best."""

    path: Path
    words: tuple[str, ...]
    task: str


def write_examples(folder: Path) -> list[Example]:
    """Writes the images into a folder; generated ones first."""
    found = []
    for number, seed in enumerate(SEEDS, start=1):
        scene = generate_scene(seed, size=SIZE, seen_only=False)
        names = (CATEGORIES[segment.category_id].name for segment in scene.segments)
        path = _save(scene.image, folder / f"shapes_{number}.png")
        found.append(Example(path, tuple(dict.fromkeys(names)), "panoptic"))
    for name, words in PHOTOGRAPHS.items():
        photograph = _photograph(name)
        if photograph is not None:
            found.append(Example(_save(photograph, folder / f"{name}.png"), words, "semantic"))
    return found


def _photograph(name: str) -> NDArray[np.uint8] | None:
    """A photograph that comes with scikit-image; None where it is not there, for nothing is downloaded."""
    try:
        from skimage import data
    except ImportError:
        return None
    file = Path(data.__file__).parent / f"{name}.png"
    return np.asarray(Image.open(file).convert("RGB")) if file.is_file() else None


def _save(image: NDArray[np.uint8], path: Path) -> Path:
    Image.fromarray(image).save(path)
    return path
