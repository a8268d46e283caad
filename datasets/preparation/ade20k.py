# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What the scripts for ADEChallengeData2016 share: folders, the 150 classes, and the 100 that are things."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cmpf.errors import DatasetError
from preparation.images import read_channels

FOLDER = "ADEChallengeData2016"
FOLDER_OF = {"train": "training", "val": "validation"}
IMAGES = {"train": 20_210, "val": 2_000}
DOWNLOAD = "http://sceneparsing.csail.mit.edu (images and annotations: ADEChallengeData2016.zip)"
DOWNLOAD_INSTANCES = "http://sceneparsing.csail.mit.edu/data/ChallengeData2017/annotations_instance.tar"
CLASSES = 150
STUFF = frozenset(
    (
        *(
            0,
            1,
            2,
            3,
            4,
            5,
            6,
            9,
            11,
            13,
            16,
            17,
            21,
            25,
            26,
            28,
            29,
            34,
            40,
            46,
            48,
            51,
            52,
            54,
            59,
            60,
            61,
            63,
            68,
        ),
        *(77, 79, 84, 91, 94, 96, 99, 100, 101, 105, 106, 109, 113, 114, 117, 122, 128, 131, 140, 141, 145),
    )
)
# The instance benchmark numbers its 100 classes in the order of the 150: its list of names (bed, windowpane, cabinet,
# person, door, ... flag, instanceInfo100_val.txt of github.com/CSAILVision/placeschallenge) agrees in every place.
THINGS = tuple(index for index in range(CLASSES) if index not in STUFF)


def images_folder(root: Path, split: str) -> Path:
    """The images of a split."""
    return root / FOLDER / "images" / FOLDER_OF[split]


def annotations_folder(root: Path, split: str) -> Path:
    """Released label maps: 0 = other, 1..150."""
    return root / FOLDER / "annotations" / FOLDER_OF[split]


def instances_folder(root: Path, split: str) -> Path:
    """Released instance images: R = class 1..100 of the instance benchmark, G = number of the instance."""
    return root / FOLDER / "annotations_instance" / FOLDER_OF[split]


def read_instances(path: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Class index 0..149 and instance number 1..255 of each pixel, both (H, W); number 0 = no instance.

    Raises:
        ImageError: damaged, or not RGB.
        DatasetError: a class that the benchmark does not have.
    """
    values = read_channels(path).astype(np.int64)
    category, number = values[..., 0], values[..., 1]
    inside = number > 0
    wrong = np.unique(category[inside & ((category < 1) | (category > len(THINGS)))])
    if wrong.size:
        raise DatasetError(
            f"{path}: instances of class {wrong.tolist()[:5]}; the benchmark has 1..{len(THINGS)}"
        )
    things = np.array([0, *THINGS], dtype=np.int64)
    return things[np.where(inside, category, 0)], number
