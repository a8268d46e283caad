# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""COCO-Stuff 164k: the stuff-and-things maps with contiguous classes.

Raw: stuffthingmaps_trainval2017.zip of github.com/nightrome/cocostuff, unpacked as coco/stuffthingmaps/{split}2017/. A
pixel is the category id less one, 0..181 with 11 gaps (ids that no image uses), 255 where nothing is annotated. The
new label is the rank of the category among the 171 that are used, 255 stays.
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
    read_labels,
    run,
    stems,
    write_labels,
)

from cmpf.errors import DatasetError

IGNORE = 255
GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91}
CATEGORIES = tuple(sorted(set(range(1, 183)) - GAPS))
UNKNOWN = 254  # marks values that no map may have; above all classes
TABLE = lookup_table(
    {IGNORE: IGNORE, **{category - 1: index for index, category in enumerate(CATEGORIES)}},
    default=UNKNOWN,
    size=256,
    dtype=np.uint8,
)


def raw(root: Path, split: str) -> list[Path]:
    """The released maps."""
    return [root / "coco" / "stuffthingmaps" / f"{split}2017"]


def plan(root: Path, split: str) -> list[Step]:
    """One label map for each map."""
    target = root / "coco" / "stuffthingmaps_detectron2" / f"{split}2017"
    return [Step(title=f"labels of {split}", items=folder_items(*raw(root, split), target), convert=convert)]


def convert(item: Item) -> None:
    """Category id less one -> class."""
    values = read_labels(item.source)
    if values.dtype != np.uint8:
        raise DatasetError(f"{item.source}: {values.dtype}; the released maps have 8 bits")
    labels = TABLE[values]
    if (labels == UNKNOWN).any():
        wrong = np.unique(values[labels == UNKNOWN]).tolist()
        raise DatasetError(f"{item.source}: values {wrong[:5]} are of no category of COCO-Stuff")
    write_labels(item.target, labels)


def prepared(root: Path, split: str) -> list[Path]:
    """Images and labels."""
    folder = root / "coco"
    return [folder / f"{split}2017", folder / "stuffthingmaps_detectron2" / f"{split}2017"]


def checks(root: Path, split: str) -> list[Check]:
    """Labels against images."""
    images, labels = prepared(root, split)
    return [
        check_labels(
            title=f"labels of {split}",
            images=stems(images, ".jpg"),
            labels=stems(labels, ".png"),
            allowed={*range(len(CATEGORIES)), IGNORE},
        )
    ]


PREPARATION = Preparation(
    script="prepare_coco_stuff.py",
    title="COCO-Stuff 164k",
    description=__doc__,
    download="https://github.com/nightrome/cocostuff#downloads",
    images={"train": 118_287, "val": 5_000},
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
