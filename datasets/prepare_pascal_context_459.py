# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""PASCAL Context, all 459 classes (PC-459): 16-bit label maps, and the images of each split in a folder.

Raw: VOCdevkit/VOC2010 (or VOC2010) of VOCtrainval_03-May-2010.tar with JPEGImages/ and ImageSets/Main/{train,val}.txt,
and in it trainval/*.mat of trainval.tar.gz. A pixel of LabelMap is a line number of labels.txt, 1..459. The label is
that number - 1, and 65535 where nothing is annotated.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from preparation import Check, Item, Preparation, Step, check_labels, place, run, stems, write_labels
from preparation.pascal import (
    CONTEXT_DOWNLOAD,
    CONTEXT_IMAGES,
    CONTEXT_LABELS,
    context_folders,
    context_items,
    context_release,
    read_label_map,
)

IGNORE = 65535


def plan(root: Path, split: str) -> list[Step]:
    """A label map for each *.mat, and the image beside the others."""
    items = context_items(root, split, classes=CONTEXT_LABELS, suffix=".tif")
    return [Step(title=f"labels of {split}", items=items, convert=convert)]


def convert(item: Item) -> None:
    """Label - 1; the image is linked, or copied to another disk."""
    labels = read_label_map(item.source)
    write_labels(item.target, np.where(labels == 0, IGNORE, labels - 1).astype(np.uint16))
    place(item.sources[1], item.targets[1])


def prepared(root: Path, split: str) -> list[Path]:
    """Images and labels."""
    return list(context_folders(root, split, CONTEXT_LABELS))


def checks(root: Path, split: str) -> list[Check]:
    """Labels against images."""
    images, labels = prepared(root, split)
    return [
        check_labels(
            title=f"labels of {split}",
            images=stems(images, ".jpg"),
            labels=stems(labels, ".tif"),
            allowed={*range(CONTEXT_LABELS), IGNORE},
            bits=16,
        )
    ]


PREPARATION = Preparation(
    script="prepare_pascal_context_459.py",
    title="PASCAL Context, 459 classes",
    description=__doc__,
    download=CONTEXT_DOWNLOAD,
    images=CONTEXT_IMAGES,
    raw=context_release,
    plan=plan,
    prepared=prepared,
    checks=checks,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code."""
    return run(PREPARATION, argv)


if __name__ == "__main__":
    sys.exit(main())
