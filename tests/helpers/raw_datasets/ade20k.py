# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""ADEChallengeData2016 with annotations_instance, and ADE20K_2021_17_01, as they are released."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from helpers.raw_datasets.common import blocks, photo, write_json, write_png

FOLDERS = {"training": "train", "validation": "val"}
IMAGES = 3
# Each block of an image: label (0 = other, 1..150), class of the instance benchmark (1..100), instance number.
# Wall, two beds, a window, other, sky, a flag of which no instance is known.
BLOCKS = ((1, 0, 0), (8, 1, 3), (8, 1, 4), (9, 2, 7), (0, 0, 0), (3, 0, 0), (150, 0, 0), (3, 0, 0), (1, 0, 0))
# Each block of A-847: object index in the release; 2978 is wall, 312 building, 165 bed, 1 is none of the 847.
OBJECTS = (2978, 312, 165, 1, 0, 2978)
SCENES = {"ADE_train_00016869": "urban/street", "ADE_train_00000001": "cultural/airport_terminal"} | {
    "ADE_val_00001471": "urban/street",
    "ADE_val_00000001": "home_or_hotel/bedroom",
}


def make_ade20k(root: Path) -> None:
    """Images, labels and instances of both splits."""
    folder = root / "ADEChallengeData2016"
    labels, categories, numbers = (blocks([block[i] for block in BLOCKS]) for i in range(3))
    instances = np.stack([categories, numbers, np.zeros_like(numbers)], axis=-1)
    for place, split in FOLDERS.items():
        for number in range(1, IMAGES + 1):
            name = f"ADE_{split}_{number:08d}"
            photo(folder / "images" / place / f"{name}.jpg", seed=number)
            write_png(folder / "annotations" / place / f"{name}.png", labels)
            write_png(folder / "annotations_instance" / place / f"{name}.png", instances)


def make_ade20k_full(root: Path) -> None:
    """Scenes of both splits, with the files that lie beside them in the release."""
    objects = blocks(OBJECTS)
    number = blocks(range(1, len(OBJECTS) + 1))
    segments = np.stack([objects // 256 * 10 + number, objects % 256, number], axis=-1)
    for name, scene in SCENES.items():
        place = "training" if "train" in name else "validation"
        folder = root / "ADE20K_2021_17_01" / "images" / "ADE" / place / scene
        photo(folder / f"{name}.jpg", seed=len(name))
        write_png(folder / f"{name}_seg.png", segments)
        write_png(folder / f"{name}_parts_1.png", np.zeros_like(segments))
        write_json(folder / f"{name}.json", {"annotation": {"filename": f"{name}.jpg", "object": []}})
        write_png(folder / name / "instance_000_ADE.png", np.zeros_like(objects))
