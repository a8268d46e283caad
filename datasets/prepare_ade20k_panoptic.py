# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""ADE20K, 150 classes: COCO panoptic JSON and PNGs from the released labels and instances.

Raw: annotations/ of ADEChallengeData2016.zip (0 = other, 1..150) and annotations_instance/ of annotations_instance.tar
(R = class 1..100 of the instance benchmark, G = number of the instance). Each instance is a segment; of the other
pixels, those of a stuff class make one segment a class, and the rest is void. Category ids are the class indices
0..149; a segment's id is 256 (category + 1) + number of the instance, so that each PNG can be read alone.
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
    read_ids,
    read_labels,
    run,
    segments_info,
    stems,
    write_ids,
)
from preparation.ade20k import (
    CLASSES,
    DOWNLOAD,
    DOWNLOAD_INSTANCES,
    FOLDER,
    IMAGES,
    STUFF,
    annotations_folder,
    images_folder,
    instances_folder,
    read_instances,
)

from cmpf.errors import DatasetError

NUMBERS = 256  # instance numbers of an image are bytes
MIN_AGREEMENT = 0.9  # of the instances' pixels whose label says the same; both come from one annotation


def raw(root: Path, split: str) -> list[Path]:
    """Labels and instances."""
    return [annotations_folder(root, split), instances_folder(root, split)]


def targets(root: Path, split: str) -> tuple[Path, Path]:
    """The JSON file and the folder of its PNGs."""
    name = f"ade20k_panoptic_{split}"
    return root / FOLDER / f"{name}.json", root / FOLDER / name


def plan(root: Path, split: str) -> list[Step]:
    """One PNG for each image that has labels, then the JSON file."""
    annotations, instances = raw(root, split)
    json, pngs = targets(root, split)
    items = [
        Item(sources=(path, instances / path.name), targets=(pngs / path.name,))
        for path in stems(annotations, ".png").values()
    ]
    if not items:
        raise DatasetError(f"{annotations}: no *.png in it; unpack the release again")
    return [
        Step(
            title=f"panoptic PNGs of {split}",
            items=items,
            convert=convert,
            describe=describe,
            assemble=assemble,
            json=json,
        )
    ]


def convert(item: Item) -> None:
    """Instances over stuff."""
    labels = read_labels(item.source).astype(np.int64)  # 1..150, 0 = other
    category, number = read_instances(item.sources[1])
    if labels.shape != number.shape:
        raise DatasetError(f"{item.sources[1]}: of size {number.shape}, labels of size {labels.shape}")
    if labels.max() > CLASSES:
        raise DatasetError(f"{item.source}: values up to {labels.max()}; expected up to {CLASSES}")
    is_stuff = np.array([False, *(index in STUFF for index in range(CLASSES))])
    stuff = np.where(is_stuff[labels], NUMBERS * labels, 0)
    write_ids(item.target, np.where(number > 0, NUMBERS * (category + 1) + number, stuff))


def describe(item: Item) -> dict[str, Any]:
    """Segments of the PNG, and how far labels and instances agree."""
    ids = read_ids(item.target)
    labels = read_labels(item.source)
    instances = ids % NUMBERS > 0
    return {
        "name": item.target.stem,
        "size": ids.shape,
        "segments": segments_info(ids, lambda value: value // NUMBERS - 1),
        "instance_pixels": int(instances.sum()),
        "agreeing_pixels": int((instances & (ids // NUMBERS == labels)).sum()),
    }


def assemble(records: list[dict[str, Any]]) -> dict[str, Any]:
    """The COCO panoptic file."""
    total, agreeing = (sum(r[key] for r in records) for key in ("instance_pixels", "agreeing_pixels"))
    if agreeing < MIN_AGREEMENT * total:
        raise DatasetError(
            f"annotations and annotations_instance agree on {agreeing:,} of {total:,} pixels of instances; "
            "they are of different releases, fetch both again"
        )
    names = class_names("ade20k_150", count=CLASSES)
    return {
        "images": [
            {"id": r["name"], "file_name": f"{r['name']}.jpg", "height": r["size"][0], "width": r["size"][1]}
            for r in records
        ],
        "annotations": [
            {"image_id": r["name"], "file_name": f"{r['name']}.png", "segments_info": r["segments"]}
            for r in records
        ],
        "categories": categories(names, (index not in STUFF for index in range(CLASSES))),
    }


def prepared(root: Path, split: str) -> list[Path]:
    """Images, JSON file and PNGs."""
    return [images_folder(root, split), *targets(root, split)]


def checks(root: Path, split: str) -> list[Check]:
    """PNGs and JSON file against images."""
    json, pngs = targets(root, split)
    images = stems(images_folder(root, split), ".jpg")
    return [
        check_panoptic(
            title=f"panoptic PNGs of {split}",
            images=images,
            json=json,
            folder=pngs,
            category_ids=range(CLASSES),
        )
    ]


PREPARATION = Preparation(
    script="prepare_ade20k_panoptic.py",
    title="ADE20K panoptic",
    description=__doc__,
    download=f"{DOWNLOAD} and {DOWNLOAD_INSTANCES}",
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
