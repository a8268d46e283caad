# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What the scripts for PASCAL VOC and PASCAL Context share: the development kit, the splits, the 459 labels."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from cmpf.errors import DatasetError
from preparation.model import Item

FOLDER_OF = {"train": "training", "val": "validation"}
CONTEXT_FOLDER = "pascal_ctx_d2"
CONTEXT_IMAGES = {"train": 4_998, "val": 5_105}
CONTEXT_DOWNLOAD = (
    "https://cs.stanford.edu/~roozbeh/pascal-context (trainval.tar.gz) and "
    "http://host.robots.ox.ac.uk/pascal/VOC/voc2010 (VOCtrainval_03-May-2010.tar)"
)
CONTEXT_LABELS = 459
# Labels, of 1..459, of the 59 most frequent classes: aeroplane, bag, bed, bedclothes, bench, ... window, wood.
CONTEXT_59 = (
    *(2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113, 115, 144),
    *(158, 159, 162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326, 347, 349, 354),
    *(355, 360, 366, 368, 397, 415, 416, 420, 424, 427, 440, 445, 454, 458),
)
_DAMAGED = (MatReadError, OSError, ValueError, TypeError, EOFError, IndexError, zlib.error)


def devkit(root: Path, year: str) -> Path:
    """VOCdevkit/VOC2012 as it is unpacked, or VOC2012 without the folder around it, as Detectron2 has it."""
    usual, short = root / "VOCdevkit" / f"VOC{year}", root / f"VOC{year}"
    return short if short.is_dir() and not usual.is_dir() else usual


def listed_names(path: Path) -> list[str]:
    """Names of images in a file of ImageSets/, one a line.

    Raises:
        DatasetError: none, or one that comes twice.
    """
    names = [line.split()[0] for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not names:
        raise DatasetError(f"{path}: names no image; unpack the release again")
    if len(set(names)) != len(names):
        raise DatasetError(f"{path}: names an image twice; unpack the release again")
    return names


def context_folders(root: Path, split: str, classes: int) -> tuple[Path, Path]:
    """Prepared images and labels of PASCAL Context."""
    folder = root / CONTEXT_FOLDER
    return folder / "images" / FOLDER_OF[split], folder / f"annotations_ctx{classes}" / FOLDER_OF[split]


def context_release(root: Path, split: str) -> list[Path]:
    """List of the split, images, and *.mat."""
    folder = devkit(root, "2010")
    return [folder / "ImageSets" / "Main" / f"{split}.txt", folder / "JPEGImages", folder / "trainval"]


def context_items(root: Path, split: str, *, classes: int, suffix: str) -> list[Item]:
    """*.mat and image -> labels and the image beside the others, for each name of a split."""
    names, raw_images, labels = context_release(root, split)
    images, targets = context_folders(root, split, classes)
    return [
        Item(
            sources=(labels / f"{name}.mat", raw_images / f"{name}.jpg"),
            targets=(targets / f"{name}{suffix}", images / f"{name}.jpg"),
        )
        for name in listed_names(names)
    ]


def read_label_map(path: Path) -> NDArray[np.int64]:
    """(H, W) labels 1..459 of a released *.mat, 0 where nothing is annotated.

    Raises:
        DatasetError: missing, damaged, or not a label map.
    """
    try:
        with path.open("rb") as opened:
            values = np.asarray(loadmat(opened, variable_names=["LabelMap"])["LabelMap"])
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: no such file; unpack trainval.tar.gz again") from error
    except KeyError as error:
        raise DatasetError(f"{path}: no LabelMap in it; it is not of PASCAL Context") from error
    except _DAMAGED as error:
        raise DatasetError(f"{path}: damaged ({error}); unpack trainval.tar.gz again") from error
    if values.ndim != 2 or not values.size or values.dtype.kind not in "uif":
        raise DatasetError(
            f"{path}: LabelMap of shape {values.shape} and type {values.dtype}; expected (H, W)"
        )
    labels = values.astype(np.int64)
    if (labels != values).any() or labels.min() < 0 or labels.max() > CONTEXT_LABELS:
        raise DatasetError(
            f"{path}: values {values.min()}..{values.max()}; expected whole numbers 0..{CONTEXT_LABELS}"
        )
    return labels
