# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""BDD100K: panoptic files with 40 classes and label maps with 19, from the released bitmasks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cmpf.data.datasets.catalog import get_spec
from cmpf.data.datasets.spec import DatasetSpec
from cmpf.data.preparation.files import (
    folder_items,
    image_entry,
    lookup_table,
    read_channels,
    read_expected_ids,
)
from cmpf.data.preparation.spec import Item, Preparation, Step
from cmpf.errors import DatasetError
from cmpf.formats.coco_json import category_entries, segments_info
from cmpf.formats.label_map import write_labels, write_panoptic_ids

FOLDER = "bdd100k"
IMAGES = {"val": 1_000}
DOWNLOAD = "https://bdd-data.berkeley.edu (10K Images, Panoptic Segmentation and Semantic Segmentation)"
CATEGORIES = 40
LAST_STUFF = 30
NUMBERS = 256  # segment ids are category + 256 number
CROWD, IGNORED = 0b10, 0b01  # attribute bits; the next two are truncated and occluded
# Categories by train id: road, sidewalk, building, wall, fence, pole, traffic light, traffic sign, vegetation,
# terrain, sky, person, rider, car, truck, bus, train, motorcycle, bicycle.
CATEGORY_OF = (7, 8, 10, 15, 11, 20, 25, 26, 29, 28, 30, 31, 32, 35, 40, 34, 39, 37, 33)
TRAIN_IDS = lookup_table(
    {category: train_id for train_id, category in enumerate(CATEGORY_OF)},
    default=255,
    size=CATEGORIES + 1,
    dtype=np.uint8,
)


class Panoptic(Preparation):
    """BDD100K panoptic, 40 classes: COCO panoptic JSON and PNGs from the released bitmasks.

    Raw data: bdd100k/images/10k/val/*.jpg and bdd100k/labels/pan_seg/bitmasks/val/*.png. Red is the category 1..40,
    green the attributes (bit 1 crowd, bit 0 ignored), blue and alpha the high and low byte of the object number. Each
    stuff class (1..30) of an image is one segment. Each object of a thing class (31..40) is one segment, and a crowd if
    the bitmask marks it as crowd or ignored. A segment id is category + 256 * object number (0 for stuff), so that each
    PNG can be read without the JSON file.
    """

    title, download, images = "BDD100K panoptic", DOWNLOAD, IMAGES

    def raw(self, root: Path, split: str) -> Sequence[Path]:
        """The released bitmasks."""
        return [_bitmasks(root, split)]

    def plan(self, root: Path, split: str) -> Sequence[Step]:
        """Creates one PNG per bitmask, then the JSON file."""
        folder = root / FOLDER
        return [
            Step(
                title=f"panoptic PNGs of {split}",
                items=folder_items(_bitmasks(root, split), folder / "jsons" / "pan_seg" / "masks" / split),
                convert=convert_panoptic,
                describe=describe_segments,
                assemble=panoptic_file,
                json=folder / "jsons" / f"pan_seg_{split}_cocofmt.json",
            )
        ]

    def parts(self, split: str) -> Sequence[DatasetSpec]:
        """The dataset."""
        return [get_spec("bdd10k_40_panoptic_val")]


class Semantic(Preparation):
    """BDD100K semantic, 19 classes: verifies the released masks, and creates missing ones from the bitmasks.

    Raw data: bdd100k/images/10k/val/*.jpg and bdd100k/labels/sem_seg/masks/val/*.png, whose values are the train ids
    0..18 and 255. If labels/pan_seg/bitmasks/val/*.png exist, missing masks are created from the category of each
    pixel: 19 of the 40 categories have a train id; the others and unlabeled pixels become 255.
    """

    title, download, images = "BDD100K semantic", DOWNLOAD, IMAGES

    def raw(self, root: Path, split: str) -> Sequence[Path]:
        """The bitmasks if they exist, else the masks."""
        bitmasks = _bitmasks(root, split)
        return [bitmasks if bitmasks.is_dir() else _masks(root, split)]

    def plan(self, root: Path, split: str) -> Sequence[Step]:
        """Creates a mask per bitmask; no step without bitmasks."""
        bitmasks = _bitmasks(root, split)
        if not bitmasks.is_dir():
            return []
        items = folder_items(bitmasks, _masks(root, split))
        return [Step(title=f"masks of {split}", items=items, convert=convert_semantic)]

    def parts(self, split: str) -> Sequence[DatasetSpec]:
        """The dataset."""
        return [get_spec("bdd10k_val_sem_seg")]


class Bitmask(NamedTuple):
    """The maps (H, W) of a bitmask.

    category: 1..40, 0 = unlabeled.
    crowd: whether the object is a crowd or to be ignored.
    number: number of the object in the image, up to 65535.
    """

    category: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    number: NDArray[np.int64]


def _bitmasks(root: Path, split: str) -> Path:
    """Released bitmasks: RGBA = category, attributes, high and low byte of the object's number."""
    return root / FOLDER / "labels" / "pan_seg" / "bitmasks" / split


def _masks(root: Path, split: str) -> Path:
    """Label maps of train ids."""
    return root / FOLDER / "labels" / "sem_seg" / "masks" / split


def read_bitmask(path: Path) -> Bitmask:
    """Reads a released bitmask.

    Raises:
        DatasetError: the file is damaged or not RGBA, or has an unknown category.
    """
    values = read_channels(path, 4)
    category, attributes = values[..., 0], values[..., 1]
    if category.max() > CATEGORIES:
        raise DatasetError(f"{path}: category {category.max()}; BDD100K has 1..{CATEGORIES}, 0 = unlabeled")
    crowd = (attributes & (CROWD | IGNORED)) > 0
    return Bitmask(category, crowd, 256 * values[..., 2] + values[..., 3])


def convert_panoptic(item: Item) -> None:
    """Converts a bitmask to a panoptic PNG."""
    write_panoptic_ids(item.target, segment_ids(read_bitmask(item.source)))


def segment_ids(bitmask: Bitmask) -> NDArray[np.int64]:
    """Segment ids (H, W): category + 256 * number of the object, with number 0 for stuff; 0 = unlabeled."""
    number = np.where(bitmask.category > LAST_STUFF, bitmask.number, 0)
    return np.where(bitmask.category > 0, bitmask.category + NUMBERS * number, 0)


def convert_semantic(item: Item) -> None:
    """Converts a bitmask to a label map of train ids."""
    write_labels(item.target, TRAIN_IDS[read_bitmask(item.source).category])


def describe_segments(item: Item) -> dict[str, Any]:
    """Image entry and annotation; a segment is a crowd if the bitmask marks all its pixels."""
    bitmask = read_bitmask(item.source)
    ids, crowd = read_expected_ids(item, segment_ids(bitmask)), bitmask.crowd
    crowds = set(np.unique(ids[crowd]).tolist()) - set(np.unique(ids[~crowd]).tolist())
    segments = segments_info(ids, lambda segment_id: segment_id % NUMBERS)
    return {
        "image": image_entry(item.target.stem, ids.shape),
        "annotation": {
            "image_id": item.target.stem,
            "file_name": item.target.name,
            "segments_info": [{**segment, "iscrowd": int(segment["id"] in crowds)} for segment in segments],
        },
    }


def panoptic_file(records: list[dict[str, Any]]) -> dict[str, Any]:
    """The COCO panoptic file."""
    names = get_spec("bdd10k_40_panoptic_val").vocabulary().names
    things = (category > LAST_STUFF for category in range(1, CATEGORIES + 1))
    return {
        "images": [record["image"] for record in records],
        "annotations": [record["annotation"] for record in records],
        "categories": category_entries(names, things, first=1),
    }
