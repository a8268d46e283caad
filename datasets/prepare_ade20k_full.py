# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""ADE20K full (A-847): 16-bit label maps of the 847 most frequent classes, and all images in one folder a split.

Raw: the release ADE20K_2021_17_01 of groups.csail.mit.edu/vision/datasets/ADE20K, images/ADE/{training,validation}/
PLACE/SCENE/ADE_*.jpg with *_seg.png beside them. The object of a pixel is R / 10 * 256 + G (whole-number division).
The label is the train id of that object, 65535 for all other objects.
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
    lookup_table,
    place,
    read_channels,
    run,
    stems,
    write_labels,
)

from cmpf.errors import DatasetError

FOLDER = "ADE20K_2021_17_01"
FOLDER_OF = {"train": "training", "val": "validation"}
IGNORE = 65535
OBJECTS = 255 // 10 * 256 + 256  # R and G are bytes
SEGMENTS = "_seg.png"


def _object_indices() -> tuple[int, ...]:
    text = (Path(__file__).parent / "preparation" / "ade20k_full_index.txt").read_text(encoding="utf-8")
    return tuple(int(word) for line in text.splitlines() if not line.startswith("#") for word in line.split())


INDICES = _object_indices()
TABLE = lookup_table(
    {index: label for label, index in enumerate(INDICES)}, default=IGNORE, size=OBJECTS, dtype=np.uint16
)


def raw(root: Path, split: str) -> list[Path]:
    """The released tree."""
    return [root / FOLDER / "images" / "ADE" / FOLDER_OF[split]]


def plan(root: Path, split: str) -> list[Step]:
    """A label map, and the image beside the others."""
    source = raw(root, split)[0]
    images, labels = prepared(root, split)
    items = [
        Item(
            sources=(path, path.with_name(f"{stem}.jpg")),
            targets=(labels / f"{stem}.tif", images / f"{stem}.jpg"),
        )
        for stem, path in stems(source, SEGMENTS, recursive=True).items()
    ]
    if not items:
        raise DatasetError(f"{source}: no *{SEGMENTS} in it or below; unpack the release again")
    return [Step(title=f"labels of {split}", items=items, convert=convert)]


def convert(item: Item) -> None:
    """Objects -> train ids; the image is linked, or copied to another disk."""
    values = read_channels(item.source).astype(np.int64)
    write_labels(item.target, TABLE[values[..., 0] // 10 * 256 + values[..., 1]])
    place(item.sources[1], item.targets[1])


def prepared(root: Path, split: str) -> list[Path]:
    """Images and labels."""
    folder = root / FOLDER
    return [
        folder / "images_detectron2" / FOLDER_OF[split],
        folder / "annotations_detectron2" / FOLDER_OF[split],
    ]


def checks(root: Path, split: str) -> list[Check]:
    """Labels against images."""
    images, labels = prepared(root, split)
    return [
        check_labels(
            title=f"labels of {split}",
            images=stems(images, ".jpg"),
            labels=stems(labels, ".tif"),
            allowed={*range(len(INDICES)), IGNORE},
            bits=16,
        )
    ]


PREPARATION = Preparation(
    script="prepare_ade20k_full.py",
    title="ADE20K full (A-847)",
    description=__doc__,
    download="https://groups.csail.mit.edu/vision/datasets/ADE20K (registration)",
    images={"train": 25_574, "val": 2_000},
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
