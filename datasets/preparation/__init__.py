# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What the preparation scripts share.

A script describes one dataset as a `Preparation` and hands it to `run`, which gives it the command line
(--root, --check, --split, --jobs, --overwrite, --images), processes, progress, restart and the report of issues.
All functions in a Preparation are called with (root, split); those of items run in other processes, so they are
functions of a module. A whole script:

    def plan(root: Path, split: str) -> list[Step]:
        raw, target = root / "zoo" / "raw" / split, root / "zoo" / "labels" / split
        return [Step(title=f"labels of {split}", items=folder_items(raw, target, suffix=".png"), convert=convert)]

    def convert(item: Item) -> None:  # raises what read_labels raises: the item is then reported as damaged
        write_labels(item.target, LOOKUP[read_labels(item.source)])

    def checks(root: Path, split: str) -> list[Check]:
        images = stems(root / "zoo" / "images" / split, ".jpg")
        labels = stems(root / "zoo" / "labels" / split, ".png")
        return [check_labels(title=f"labels of {split}", images=images, labels=labels, allowed={*range(9), 255})]

    PREPARATION = Preparation(
        script="prepare_zoo.py", title="Zoo", description=__doc__, download="https://zoo.example/download",
        images={"train": 900, "val": 100}, raw=lambda root, split: [root / "zoo" / "raw" / split], plan=plan,
        prepared=lambda root, split: [root / "zoo" / "labels" / split], checks=checks,
    )

    def main(argv: Sequence[str] | None = None) -> int:
        return run(PREPARATION, argv)

Files:
    model.py     Item, Step, Check, Issue, Preparation
    command.py   run: the command line
    work.py      functions over many items in several processes; one damaged item does not stop the others
    images.py  label and id maps of every bit depth, sizes, listings
    coco.py      COCO panoptic and instance files
    classes.py   names of the classes, from the vocabulary files
    checks.py    check_labels; check_panoptic.py, check_instances.py: the same for COCO files

A Step with a `json` target is described after its items are whole: `describe(item)` for each item (in processes),
then `assemble(list of what describe returned)` gives the content. The file is removed before items are made and
written only when all are whole, so where it is, the rest is.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))  # the scripts run without installation

from preparation.check_instances import check_instances
from preparation.check_panoptic import check_panoptic
from preparation.checks import check_labels
from preparation.classes import class_names
from preparation.coco import categories, instance_annotation, read_json, segments_info, write_json
from preparation.command import run
from preparation.images import (
    folder_items,
    image_size,
    lookup_table,
    place,
    read_channels,
    read_ids,
    read_labels,
    stems,
    write_ids,
    write_labels,
)
from preparation.model import Check, Issue, Item, Preparation, Step

__all__ = [
    "Check",
    "Issue",
    "Item",
    "Preparation",
    "Step",
    "categories",
    "check_instances",
    "check_labels",
    "check_panoptic",
    "class_names",
    "folder_items",
    "image_size",
    "instance_annotation",
    "lookup_table",
    "place",
    "read_channels",
    "read_ids",
    "read_json",
    "read_labels",
    "run",
    "segments_info",
    "stems",
    "write_ids",
    "write_json",
    "write_labels",
]
