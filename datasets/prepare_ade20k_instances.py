# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""ADE20K, 100 things: COCO instances JSON from the released instance images.

Raw: annotations_instance/ of annotations_instance.tar (R = class 1..100 of the instance benchmark, G = number of the
instance, unique in its image). Category ids are the indices of the 150 classes (bed is 7), as in the panoptic file;
masks are RLE.
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
    check_instances,
    class_names,
    instance_annotation,
    run,
    stems,
)
from preparation.ade20k import (
    CLASSES,
    DOWNLOAD_INSTANCES,
    FOLDER,
    IMAGES,
    THINGS,
    images_folder,
    instances_folder,
    read_instances,
)

from cmpf.errors import DatasetError


def raw(root: Path, split: str) -> list[Path]:
    """The released instances."""
    return [instances_folder(root, split)]


def target(root: Path, split: str) -> Path:
    """The JSON file."""
    return root / FOLDER / f"ade20k_instance_{split}.json"


def plan(root: Path, split: str) -> list[Step]:
    """The JSON file from all instance images."""
    folder = instances_folder(root, split)
    items = [Item(sources=(path,)) for path in stems(folder, ".png").values()]
    if not items:
        raise DatasetError(f"{folder}: no *.png in it; unpack the release again")
    title = f"instances of {split}"
    return [Step(title=title, items=items, describe=describe, assemble=assemble, json=target(root, split))]


def describe(item: Item) -> dict[str, Any]:
    """Annotations of one image, without their ids."""
    category, number = read_instances(item.source)
    pairs = np.unique(np.stack([category, number])[:, number > 0], axis=1).T.tolist()
    return {
        "name": item.source.stem,
        "size": number.shape,
        "annotations": [
            instance_annotation((category == c) & (number == n), category_id=int(c)) for c, n in pairs
        ],
    }


def assemble(records: list[dict[str, Any]]) -> dict[str, Any]:
    """The COCO instances file."""
    names = class_names("ade20k_150", count=CLASSES)
    annotations = [{"image_id": r["name"], **annotation} for r in records for annotation in r["annotations"]]
    return {
        "images": [
            {"id": r["name"], "file_name": f"{r['name']}.jpg", "height": r["size"][0], "width": r["size"][1]}
            for r in records
        ],
        "annotations": [
            {"id": number, **annotation} for number, annotation in enumerate(annotations, start=1)
        ],
        "categories": [{"id": index, "name": names[index]} for index in THINGS],
    }


def prepared(root: Path, split: str) -> list[Path]:
    """Images and JSON file."""
    return [images_folder(root, split), target(root, split)]


def checks(root: Path, split: str) -> list[Check]:
    """JSON file against images."""
    images = images_folder(root, split)
    return [
        check_instances(
            title=f"instances of {split}",
            json=target(root, split),
            image_of=lambda image: images / image["file_name"],
            category_ids=THINGS,
            images=stems(images, ".jpg"),
        )
    ]


PREPARATION = Preparation(
    script="prepare_ade20k_instances.py",
    title="ADE20K instances",
    description=__doc__,
    download=DOWNLOAD_INSTANCES,
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
