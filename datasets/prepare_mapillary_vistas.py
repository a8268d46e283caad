# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Mapillary Vistas v1.2: verifies the release; puts the v1.2 part of a v2.0 package where v1.2 has it.

Raw: {training,validation}/images/*.jpg, labels/*.png (category id less one, 65 = unlabeled) and panoptic/ with
panoptic_2018.json, of www.mapillary.com/dataset/vistas. The package of v2.0 keeps the same files in
{training,validation}/v1.2/; they are linked, which takes no room, or copied where links cannot be made.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from preparation import Check, Item, Preparation, Step, check_labels, check_panoptic, place, run, stems

FOLDER = "mapillary_vistas"
FOLDER_OF = {"train": "training", "val": "validation"}
UNLABELED = 65
CATEGORIES = range(1, 66)
JSON = Path("panoptic", "panoptic_2018.json")


def prepared(root: Path, split: str) -> list[Path]:
    """The tree of v1.2."""
    folder = root / FOLDER / FOLDER_OF[split]
    return [folder / "images", folder / "labels", folder / JSON]


def raw(root: Path, split: str) -> list[Path]:
    """The tree of v1.2, or of v2.0."""
    images, labels, json = prepared(root, split)
    newer = _newer(root, split)
    return [images, newer / "labels", newer / JSON] if newer.is_dir() else [images, labels, json]


def plan(root: Path, split: str) -> list[Step]:
    """Nothing, or links."""
    newer, folder = _newer(root, split), root / FOLDER / FOLDER_OF[split]
    if not newer.is_dir():
        return []
    files = [
        *stems(newer / "labels", ".png").values(),
        *stems(newer / "panoptic", ".png").values(),
        newer / JSON,
    ]
    items = [Item(sources=(path,), targets=(folder / path.relative_to(newer),)) for path in files]
    return [Step(title=f"files of v1.2 of {split}", items=items, convert=convert)]


def convert(item: Item) -> None:
    """Links or copies one file."""
    place(item.source, item.target)


def checks(root: Path, split: str) -> list[Check]:
    """Labels, PNGs and JSON file against images."""
    image_folder, labels, json = prepared(root, split)
    images = stems(image_folder, ".jpg")
    return [
        check_labels(
            title=f"labels of {split}",
            images=images,
            labels=stems(labels, ".png"),
            allowed=range(UNLABELED + 1),
        ),
        check_panoptic(
            title=f"panoptic PNGs of {split}",
            images=images,
            json=json,
            folder=json.parent,
            category_ids=CATEGORIES,
        ),
    ]


def _newer(root: Path, split: str) -> Path:
    return root / FOLDER / FOLDER_OF[split] / "v1.2"


PREPARATION = Preparation(
    script="prepare_mapillary_vistas.py",
    title="Mapillary Vistas v1.2",
    description=__doc__,
    download="https://www.mapillary.com/dataset/vistas (registration)",
    images={"train": 18_000, "val": 2_000},
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
