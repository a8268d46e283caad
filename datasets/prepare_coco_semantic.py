# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""COCO panoptic: label maps of all 133 classes, made from the panoptic PNGs.

Raw: the 2017 panoptic release of cocodataset.org. panoptic_{split}2017.json lists for every PNG its segments; the PNG
holds their ids as R + 256 G + 65536 B, 0 where nothing is annotated. The label is the rank of the segment's category
among the 133 ids, crowd regions included, and 255 where nothing is annotated.
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
    check_instances,
    check_labels,
    check_panoptic,
    read_ids,
    read_json,
    run,
    stems,
    write_labels,
)

from cmpf.data.datasets.builtin_parts import COCO_IDS, in_order
from cmpf.errors import DatasetError

IGNORE = 255
CLASS_OF = in_order(COCO_IDS)
THINGS = COCO_IDS[:80]


def raw(root: Path, split: str) -> list[Path]:
    """The panoptic release."""
    folder = root / "coco"
    return [folder / "annotations" / f"panoptic_{split}2017.json", folder / f"panoptic_{split}2017"]


def plan(root: Path, split: str) -> list[Step]:
    """One label map for each entry of the JSON file."""
    json, pngs = raw(root, split)
    try:
        items = [
            Item(
                sources=(pngs / entry["file_name"],),
                targets=(root / "coco" / f"panoptic_semseg_{split}2017" / entry["file_name"],),
                data=tuple(
                    (segment["id"], CLASS_OF[segment["category_id"]]) for segment in entry["segments_info"]
                ),
            )
            for entry in read_json(json, ("annotations",))["annotations"]
        ]
    except (KeyError, TypeError) as error:
        raise DatasetError(f"{json}: not COCO's panoptic file ({error!r}); fetch it again") from error
    return [Step(title=f"labels of {split}", items=items, convert=convert)]


def convert(item: Item) -> None:
    """Segment ids -> classes."""
    ids, places = np.unique(read_ids(item.source), return_inverse=True)
    class_of = {0: IGNORE, **dict(item.data)}
    unknown = [int(value) for value in ids if int(value) not in class_of]
    if unknown:
        raise DatasetError(f"{item.source}: segments {unknown[:5]} are not in the JSON file")
    classes = np.array([class_of[int(value)] for value in ids], dtype=np.uint8)
    write_labels(item.target, classes[places])


def prepared(root: Path, split: str) -> list[Path]:
    """All that training and evaluation read."""
    folder = root / "coco"
    return [
        folder / f"{split}2017",
        *raw(root, split),
        folder / f"panoptic_semseg_{split}2017",
        folder / "annotations" / f"instances_{split}2017.json",
    ]


def checks(root: Path, split: str) -> list[Check]:
    """Label maps, panoptic PNGs and instances against the images."""
    image_folder, json, pngs, labels, instances = prepared(root, split)
    images = stems(image_folder, ".jpg")
    return [
        check_labels(
            title=f"labels of {split}",
            images=images,
            labels=stems(labels, ".png"),
            allowed={*range(len(CLASS_OF)), IGNORE},
        ),
        check_panoptic(
            title=f"panoptic PNGs of {split}", images=images, json=json, folder=pngs, category_ids=CLASS_OF
        ),
        check_instances(
            title=f"instances of {split}",
            json=instances,
            image_of=lambda image: image_folder / image["file_name"],
            category_ids=THINGS,
            images=images,
        ),
    ]


PREPARATION = Preparation(
    script="prepare_coco_semantic.py",
    title="COCO panoptic",
    description=__doc__,
    download="https://cocodataset.org/#download",
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
