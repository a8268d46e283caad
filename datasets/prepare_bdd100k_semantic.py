# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""BDD100K semantic, 19 classes: verifies the released masks, and makes those that are missing from the bitmasks.

Raw: bdd100k/images/10k/val/*.jpg and bdd100k/labels/sem_seg/masks/val/*.png, whose values are the train ids 0..18 and
255. Where labels/pan_seg/bitmasks/val/*.png lie, a missing mask is made from the category of each pixel: 19 of the 40
categories have a train id, all others and unlabeled pixels become 255.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from preparation import (
    Check,
    Item,
    Preparation,
    Step,
    check_labels,
    folder_items,
    lookup_table,
    run,
    stems,
    write_labels,
)
from preparation.bdd100k import (
    CATEGORIES,
    DOWNLOAD,
    FOLDER,
    IMAGES,
    bitmasks_folder,
    images_folder,
    read_bitmask,
)

IGNORE = 255
# Categories by train id: road, sidewalk, building, wall, fence, pole, traffic light, traffic sign, vegetation,
# terrain, sky, person, rider, car, truck, bus, train, motorcycle, bicycle.
CATEGORY_OF = (7, 8, 10, 15, 11, 20, 25, 26, 29, 28, 30, 31, 32, 35, 40, 34, 39, 37, 33)
TABLE = lookup_table(
    {category: train_id for train_id, category in enumerate(CATEGORY_OF)},
    default=IGNORE,
    size=CATEGORIES + 1,
    dtype=np.uint8,
)


def masks_folder(root: Path, split: str) -> Path:
    """Masks of train ids."""
    return root / FOLDER / "labels" / "sem_seg" / "masks" / split


def raw(root: Path, split: str) -> list[Path]:
    """The bitmasks where they are, else the masks."""
    bitmasks = bitmasks_folder(root, split)
    return [bitmasks if bitmasks.is_dir() else masks_folder(root, split)]


def plan(root: Path, split: str) -> list[Step]:
    """A mask for each bitmask, or nothing."""
    bitmasks = bitmasks_folder(root, split)
    if not bitmasks.is_dir():
        return []
    items = folder_items(bitmasks, masks_folder(root, split))
    return [Step(title=f"masks of {split}", items=items, convert=convert)]


def convert(item: Item) -> None:
    """Category -> train id."""
    write_labels(item.target, TABLE[read_bitmask(item.source).category])


def prepared(root: Path, split: str) -> list[Path]:
    """Images and masks."""
    return [images_folder(root, split), masks_folder(root, split)]


def checks(root: Path, split: str) -> list[Check]:
    """Masks against images."""
    images, masks = prepared(root, split)
    return [
        check_labels(
            title=f"masks of {split}",
            images=stems(images, ".jpg"),
            labels=stems(masks, ".png"),
            allowed={*range(len(CATEGORY_OF)), IGNORE},
        )
    ]


PREPARATION = Preparation(
    script="prepare_bdd100k_semantic.py",
    title="BDD100K semantic",
    description=__doc__,
    download=DOWNLOAD,
    images=IMAGES,
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
