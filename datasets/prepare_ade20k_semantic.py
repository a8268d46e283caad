# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""ADE20K, 150 classes: label maps that count from 0.

Raw: ADEChallengeData2016.zip of sceneparsing.csail.mit.edu. A pixel of annotations/ is 1..150, or 0 for
everything else. The new label is one less; 0 becomes 255.
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
    read_labels,
    run,
    stems,
    write_labels,
)
from preparation.ade20k import (
    CLASSES,
    DOWNLOAD,
    FOLDER,
    FOLDER_OF,
    IMAGES,
    annotations_folder,
    images_folder,
)

from cmpf.errors import DatasetError

IGNORE = 255


def labels_folder(root: Path, split: str) -> Path:
    """The new label maps."""
    return root / FOLDER / "annotations_detectron2" / FOLDER_OF[split]


def raw(root: Path, split: str) -> list[Path]:
    """The released labels."""
    return [annotations_folder(root, split)]


def plan(root: Path, split: str) -> list[Step]:
    """One label map for each released one."""
    items = folder_items(annotations_folder(root, split), labels_folder(root, split))
    return [Step(title=f"labels of {split}", items=items, convert=convert)]


def convert(item: Item) -> None:
    """1..150 -> 0..149; 0 -> 255."""
    values = read_labels(item.source)
    if values.dtype != np.uint8 or values.max() > CLASSES:
        raise DatasetError(
            f"{item.source}: {values.dtype} values up to {values.max()}; expected bytes up to {CLASSES}"
        )
    write_labels(item.target, values - np.uint8(1))  # bytes wrap: 0 - 1 = 255


def prepared(root: Path, split: str) -> list[Path]:
    """Images and labels."""
    return [images_folder(root, split), labels_folder(root, split)]


def checks(root: Path, split: str) -> list[Check]:
    """Labels against images."""
    return [
        check_labels(
            title=f"labels of {split}",
            images=stems(images_folder(root, split), ".jpg"),
            labels=stems(labels_folder(root, split), ".png"),
            allowed={*range(CLASSES), IGNORE},
        )
    ]


PREPARATION = Preparation(
    script="prepare_ade20k_semantic.py",
    title="ADE20K semantic",
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
