# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""PASCAL VOC 2012: label maps of 21 classes (with background) and of 20; the images of each split in a folder.

Raw: VOCtrainval_11-May-2012.tar, unpacked as VOCdevkit/VOC2012 (or VOC2012): SegmentationClass/*.png with palette
indices 0 = background, 1..20, 255 = border, and ImageSets/Segmentation/{train,val}.txt. The larger training set of
SBD is not used. Labels of 21 classes are the indices as they are; of 20 classes index - 1, and 255 for background.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from preparation import (
    Check,
    Item,
    Preparation,
    Step,
    check_labels,
    place,
    read_labels,
    run,
    stems,
    write_labels,
)
from preparation.pascal import FOLDER_OF, devkit, listed_names

from cmpf.errors import DatasetError

FOLDER = "pascal_voc_d2"
IGNORE = 255
CLASSES = 20  # without background


def raw(root: Path, split: str) -> list[Path]:
    """List of the split, images and labels of the release."""
    folder = devkit(root, "2012")
    names = folder / "ImageSets" / "Segmentation" / f"{split}.txt"
    return [names, folder / "JPEGImages", folder / "SegmentationClass"]


def plan(root: Path, split: str) -> list[Step]:
    """The image beside the others with its labels of 21 classes, then those of 20."""
    listing, raw_images, labels = raw(root, split)
    images, with_background, without_background = prepared(root, split)
    names = listed_names(listing)
    of_21 = [
        Item(
            sources=(labels / f"{name}.png", raw_images / f"{name}.jpg"),
            targets=(with_background / f"{name}.png", images / f"{name}.jpg"),
        )
        for name in names
    ]
    of_20 = [
        Item(sources=(labels / f"{name}.png",), targets=(without_background / f"{name}.png",))
        for name in names
    ]
    return [
        Step(title=f"labels of {split}, 21 classes", items=of_21, convert=convert_21),
        Step(title=f"labels of {split}, 20 classes", items=of_20, convert=convert_20),
    ]


def convert_21(item: Item) -> None:
    """Indices as they are; the image is linked, or copied to another disk."""
    write_labels(item.target, _indices(item.source))
    place(item.sources[1], item.targets[1])


def convert_20(item: Item) -> None:
    """Index - 1; background joins the border."""
    indices = _indices(item.source)
    # In bytes 0 - 1 is 255, so only the border has to be put back.
    write_labels(item.target, np.where(indices == IGNORE, np.uint8(IGNORE), indices - np.uint8(1)))


def _indices(path: Path) -> NDArray[Any]:
    values = read_labels(path)
    wrong = np.unique(values[(values > CLASSES) & (values != IGNORE)]).tolist()
    if wrong or values.dtype != np.uint8:
        raise DatasetError(
            f"{path}: {values.dtype} values {wrong[:5]}; expected bytes 0..{CLASSES} and {IGNORE}"
        )
    return values


def prepared(root: Path, split: str) -> list[Path]:
    """Images, labels of 21 classes and labels of 20."""
    folder = root / FOLDER
    names = ("images", "annotations_pascal21", "annotations_pascal20")
    return [folder / name / FOLDER_OF[split] for name in names]


def checks(root: Path, split: str) -> list[Check]:
    """Both kinds of labels against images."""
    raw_images, *folders = prepared(root, split)
    images = stems(raw_images, ".jpg")
    return [
        check_labels(
            title=f"labels of {split}, {classes} classes",
            images=images,
            labels=stems(folder, ".png"),
            allowed={*range(classes), IGNORE},
        )
        for classes, folder in zip((CLASSES + 1, CLASSES), folders, strict=True)
    ]


PREPARATION = Preparation(
    script="prepare_pascal_voc.py",
    title="PASCAL VOC 2012",
    description=__doc__,
    download="http://host.robots.ox.ac.uk/pascal/VOC/voc2012 (VOCtrainval_11-May-2012.tar)",
    images={"train": 1_464, "val": 1_449},
    raw=raw,
    plan=plan,
    prepared=prepared,
    checks=checks,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code."""
    return run(PREPARATION, argv)


if __name__ == "__main__":
    sys.exit(main())
