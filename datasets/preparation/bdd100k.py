# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What the scripts for BDD100K share: folders and the released bitmasks."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cmpf.errors import DatasetError
from preparation.images import read_channels

FOLDER = "bdd100k"
IMAGES = {"val": 1_000}
DOWNLOAD = "https://bdd-data.berkeley.edu (10K Images, Panoptic Segmentation and Semantic Segmentation)"
CATEGORIES = 40
CROWD, IGNORED = 0b10, 0b01  # bits of the attributes; the two above them say truncated and occluded


class Bitmask(NamedTuple):
    """Three (H, W) maps of a bitmask.

    category: 1..40, 0 where nothing is annotated.
    crowd: the object is a group, or is not to be counted.
    number: of the object in the image, up to 65535.
    """

    category: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    number: NDArray[np.int64]


def images_folder(root: Path, split: str) -> Path:
    """The images of a split."""
    return root / FOLDER / "images" / "10k" / split


def bitmasks_folder(root: Path, split: str) -> Path:
    """Released bitmasks: RGBA = category, attributes, high and low byte of the object's number."""
    return root / FOLDER / "labels" / "pan_seg" / "bitmasks" / split


def read_bitmask(path: Path) -> Bitmask:
    """
    Raises:
        ImageError: damaged, or not RGBA.
        DatasetError: a category that the release does not have.
    """
    values = read_channels(path, "RGBA").astype(np.int64)
    category, attributes = values[..., 0], values[..., 1]
    if category.max() > CATEGORIES:
        raise DatasetError(f"{path}: category {category.max()}; BDD100K has 1..{CATEGORIES}, 0 = unlabeled")
    crowd = (attributes & (CROWD | IGNORED)) > 0
    return Bitmask(category, crowd, 256 * values[..., 2] + values[..., 3])
