# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""BDD100K panoptic, 40 classes: COCO panoptic JSON and PNGs from the released bitmasks.

Raw: bdd100k/images/10k/val/*.jpg and bdd100k/labels/pan_seg/bitmasks/val/*.png. Red is the category 1..40, green the
attributes (bit 1 crowd, bit 0 ignored), blue and alpha the high and low byte of the object's number. All pixels of a
stuff class (1..30) are one segment; each object of a thing class (31..40) is one, and a crowd if the bitmask says
crowd or ignored. A segment's id is category + 256 number (0 for stuff), so that each PNG can be read alone.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from preparation import (
    Check,
    Item,
    Preparation,
    Step,
    categories,
    check_panoptic,
    class_names,
    folder_items,
    read_ids,
    run,
    segments_info,
    stems,
    write_ids,
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

LAST_STUFF = 30
NUMBERS = 256  # ids are category + 256 number


def raw(root: Path, split: str) -> list[Path]:
    """The released bitmasks."""
    return [bitmasks_folder(root, split)]


def targets(root: Path, split: str) -> tuple[Path, Path]:
    """The JSON file and the folder of its PNGs."""
    folder = root / FOLDER
    return (
        folder / "jsons" / f"pan_seg_{split}_cocofmt.json",
        folder / "labels" / "pan_seg" / "coco_pano" / split,
    )


def plan(root: Path, split: str) -> list[Step]:
    """One PNG for each bitmask, then the JSON file."""
    json, pngs = targets(root, split)
    return [
        Step(
            title=f"panoptic PNGs of {split}",
            items=folder_items(*raw(root, split), pngs),
            convert=convert,
            describe=describe,
            assemble=assemble,
            json=json,
        )
    ]


def convert(item: Item) -> None:
    """Category and number -> segment id."""
    bitmask = read_bitmask(item.source)
    number = np.where(bitmask.category > LAST_STUFF, bitmask.number, 0)
    write_ids(item.target, np.where(bitmask.category > 0, bitmask.category + NUMBERS * number, 0))


def describe(item: Item) -> dict[str, Any]:
    """Segments of the PNG; a crowd is what the bitmask marks in all its pixels."""
    ids, crowd = read_ids(item.target), read_bitmask(item.source).crowd
    crowds = set(np.unique(ids[crowd]).tolist()) - set(np.unique(ids[~crowd]).tolist())
    segments = segments_info(ids, lambda value: value % NUMBERS)
    return {
        "name": item.target.stem,
        "size": ids.shape,
        "segments": [{**segment, "iscrowd": int(segment["id"] in crowds)} for segment in segments],
    }


def assemble(records: list[dict[str, Any]]) -> dict[str, Any]:
    """The COCO panoptic file."""
    names = class_names("bdd100k_40", count=CATEGORIES)
    things = (category > LAST_STUFF for category in range(1, CATEGORIES + 1))
    return {
        "images": [
            {"id": r["name"], "file_name": f"{r['name']}.jpg", "height": r["size"][0], "width": r["size"][1]}
            for r in records
        ],
        "annotations": [
            {"image_id": r["name"], "file_name": f"{r['name']}.png", "segments_info": r["segments"]}
            for r in records
        ],
        "categories": categories(names, things, first=1),
    }


def prepared(root: Path, split: str) -> list[Path]:
    """Images, JSON file and PNGs."""
    return [images_folder(root, split), *targets(root, split)]


def checks(root: Path, split: str) -> list[Check]:
    """PNGs and JSON file against images."""
    json, pngs = targets(root, split)
    return [
        check_panoptic(
            title=f"panoptic PNGs of {split}",
            images=stems(images_folder(root, split), ".jpg"),
            json=json,
            folder=pngs,
            category_ids=range(1, CATEGORIES + 1),
        )
    ]


PREPARATION = Preparation(
    script="prepare_bdd100k_panoptic.py",
    title="BDD100K panoptic",
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
