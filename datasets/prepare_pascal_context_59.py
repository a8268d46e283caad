# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""PASCAL Context, the 59 most frequent classes (PC-59): label maps, and the images of each split in a folder.

Raw: VOCdevkit/VOC2010 (or VOC2010) of VOCtrainval_03-May-2010.tar with JPEGImages/, and in it one of
  trainval_merged.json   of PASCAL in Detail, from which published results are; it says which image is in which split
  trainval/*.mat         of trainval.tar.gz; splits are those of ImageSets/Main/{train,val}.txt
The first is taken where both are there. Both number the classes 1..459. The label is the place of a class among the
59, and 255 for all other classes and where nothing is annotated.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from preparation import (
    Check,
    Item,
    Preparation,
    Step,
    check_labels,
    lookup_table,
    place,
    read_json,
    run,
    stems,
    write_labels,
)
from preparation.pascal import (
    CONTEXT_59,
    CONTEXT_DOWNLOAD,
    CONTEXT_IMAGES,
    CONTEXT_LABELS,
    context_folders,
    context_items,
    context_release,
    devkit,
    read_label_map,
)
from pycocotools import mask as rle

from cmpf.errors import DatasetError

CLASSES = len(CONTEXT_59)
IGNORE = 255
TABLE = lookup_table(
    {label: index for index, label in enumerate(CONTEXT_59)},
    default=IGNORE,
    size=CONTEXT_LABELS + 1,
    dtype=np.uint8,
)
LISTS = ("images", "annos_segmentation")


def raw(root: Path, split: str) -> list[Path]:
    """The JSON file and images, or list, images and *.mat."""
    json = merged_json(root)
    return [json, json.parent / "JPEGImages"] if json.is_file() else context_release(root, split)


def merged_json(root: Path) -> Path:
    """The annotations of PASCAL in Detail."""
    return devkit(root, "2010") / "trainval_merged.json"


def plan(root: Path, split: str) -> list[Step]:
    """A label map for each image of the split, and the image beside the others."""
    if merged_json(root).is_file():
        return [Step(title=f"labels of {split}", items=_merged_items(root, split), convert=convert_merged)]
    items = context_items(root, split, classes=CLASSES, suffix=".png")
    return [Step(title=f"labels of {split}", items=items, convert=convert)]


def _merged_items(root: Path, split: str) -> list[Item]:
    """Item.data = (height, width, masks), a mask being (label, RLE)."""
    json, raw_images = raw(root, split)
    images, labels = context_folders(root, split, CLASSES)
    content = read_json(json, LISTS)
    masks: dict[Any, list[tuple[int, Any]]] = defaultdict(list)
    try:
        for annotation in content["annos_segmentation"]:
            masks[annotation["image_id"]].append((annotation["category_id"], annotation["segmentation"]))
        items = [
            Item(
                sources=(raw_images / image["file_name"],),
                targets=(
                    labels / Path(image["file_name"]).with_suffix(".png"),
                    images / image["file_name"],
                ),
                data=(image["height"], image["width"], masks[image["image_id"]]),
            )
            for image in content["images"]
            if image["phase"] == split
        ]
    except (KeyError, TypeError) as error:
        raise DatasetError(f"{json}: not of PASCAL in Detail ({error!r}); fetch it again") from error
    if not items:
        raise DatasetError(f"{json}: no image of phase {split!r}; fetch it again")
    return items


def convert_merged(item: Item) -> None:
    """Masks, later ones over earlier ones -> classes."""
    height, width, masks = item.data
    labels = np.zeros((height, width), dtype=np.int64)
    for label, encoded in masks:
        labels[_decode(encoded, (height, width), item.source)] = label
    if labels.min() < 0 or labels.max() > CONTEXT_LABELS:
        raise DatasetError(f"{item.source}: category {labels.max()}; expected 0..{CONTEXT_LABELS}")
    _write(item, labels)


def _decode(encoded: Any, size: tuple[int, int], image: Path) -> NDArray[np.bool_]:
    if not isinstance(encoded, dict) or tuple(encoded.get("size", ())) != size:
        raise DatasetError(f"{image}: a mask in the JSON file is no RLE of size {size}")
    return np.asarray(rle.decode(encoded), dtype=np.bool_)


def convert(item: Item) -> None:
    """Labels -> classes."""
    _write(item, read_label_map(item.source))


def _write(item: Item, labels: NDArray[np.int64]) -> None:
    """Classes; the image is linked, or copied to another disk."""
    write_labels(item.target, TABLE[labels])
    place(item.sources[-1], item.targets[1])


def prepared(root: Path, split: str) -> list[Path]:
    """Images and labels."""
    return list(context_folders(root, split, CLASSES))


def checks(root: Path, split: str) -> list[Check]:
    """Labels against images."""
    raw_images, labels = prepared(root, split)
    return [
        check_labels(
            title=f"labels of {split}",
            images=stems(raw_images, ".jpg"),
            labels=stems(labels, ".png"),
            allowed={*range(CLASSES), IGNORE},
        )
    ]


PREPARATION = Preparation(
    script="prepare_pascal_context_59.py",
    title="PASCAL Context, 59 classes",
    description=__doc__,
    download=f"{CONTEXT_DOWNLOAD}, or trainval_merged.json of https://sites.google.com/view/pasd",
    images=CONTEXT_IMAGES,
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
