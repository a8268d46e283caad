# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""ADE20K with 150 classes (ADEChallengeData2016): label maps, panoptic files and instances."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmpf.data.datasets.catalog import get_spec
from cmpf.data.datasets.constants import ADE20K_THINGS, SPLITS
from cmpf.data.datasets.spec import DatasetSpec
from cmpf.data.preparation.files import (
    files_by_stem,
    folder_items,
    image_entry,
    read_channels,
    read_expected_ids,
    read_uint8,
)
from cmpf.data.preparation.spec import Item, Preparation, Step, instances_part, labels_part, panoptic_part
from cmpf.errors import DatasetError
from cmpf.formats.coco_json import category_entries, instance_entry, segments_info
from cmpf.formats.label_map import read_labels, write_labels, write_panoptic_ids

logger = logging.getLogger(__name__)

FOLDER = "ADEChallengeData2016"
IMAGES = {"train": 20_210, "val": 2_000}
DOWNLOAD = "http://sceneparsing.csail.mit.edu (images and annotations: ADEChallengeData2016.zip)"
DOWNLOAD_INSTANCES = "http://sceneparsing.csail.mit.edu/data/ChallengeData2017/annotations_instance.tar"
CLASSES = 150
NUMBERS = 256  # instance numbers of an image are bytes
MIN_AGREEMENT = 0.9  # share of instance pixels whose label has the same class; both come from one annotation


class Semantic(Preparation):
    """ADE20K, 150 classes: label maps with classes numbered from 0.

    Raw data: ADEChallengeData2016.zip from sceneparsing.csail.mit.edu. The label maps in annotations/ hold 1..150, or
    0 for everything else. New labels are one less; 0 becomes 255.
    """

    title, download, images = "ADE20K semantic", DOWNLOAD, IMAGES

    def raw(self, root: Path, split: str) -> Sequence[Path]:
        """The released labels."""
        return [_annotations(root, split)]

    def plan(self, root: Path, split: str) -> Sequence[Step]:
        """Converts each released label map."""
        items = folder_items(_annotations(root, split), root / FOLDER / _new_labels(split))
        return [Step(title=f"labels of {split}", items=items, convert=count_from_zero)]

    def parts(self, split: str) -> Sequence[DatasetSpec]:
        """Label maps."""
        return [labels_part(_dataset(split), _new_labels(split))]


class Panoptic(Preparation):
    """ADE20K, 150 classes: COCO panoptic JSON and PNGs from the released labels and instances.

    Raw data: annotations/ from ADEChallengeData2016.zip (0 = other, 1..150) and annotations_instance/ from
    annotations_instance.tar (R = class 1..100 of the instance benchmark, G = instance number). Each instance is a
    segment. Among the other pixels, each stuff class is one segment, and the rest is void. Category ids are the class
    indices 0..149; a segment id is 256 (category + 1) + instance number, so that each PNG can be read without the JSON
    file. As in published results, areas and boxes of stuff are computed before instances are pasted over it, and stuff
    without a remaining pixel stays listed; --exact-areas computes them from the PNG.
    """

    title, download, images = "ADE20K panoptic", f"{DOWNLOAD} and {DOWNLOAD_INSTANCES}", IMAGES

    def __init__(self, *, exact_areas: bool = False) -> None:
        """
        Args:
            exact_areas: compute area and box of stuff from the PNG.
        """
        self.exact_areas = exact_areas

    def raw(self, root: Path, split: str) -> Sequence[Path]:
        """The released labels and instances."""
        return [_annotations(root, split), _instances(root, split)]

    def plan(self, root: Path, split: str) -> Sequence[Step]:
        """Creates one PNG per label map, then the JSON file."""
        annotations, instances = self.raw(root, split)
        folder = root / FOLDER / f"ade20k_panoptic_{split}"
        items = [
            Item(sources=(path, instances / path.name), targets=(folder / path.name,))
            for path in files_by_stem(annotations, ".png").values()
        ]
        return [
            Step(
                title=f"panoptic PNGs of {split}",
                items=items,
                convert=convert_panoptic,
                describe=describe_exact_segments if self.exact_areas else describe_segments,
                assemble=panoptic_file,
                json=folder.with_name(f"{folder.name}.json"),
            )
        ]

    def parts(self, split: str) -> Sequence[DatasetSpec]:
        """The PNGs and the JSON file."""
        return [panoptic_part(_dataset(split))]


class Instances(Preparation):
    """ADE20K, 100 things: COCO instances JSON from the released instance images.

    Raw data: annotations_instance/ from annotations_instance.tar (R = class 1..100 of the instance benchmark, G =
    instance number, unique in its image). Category ids are the indices of the 150 classes (bed is 7), as in the
    panoptic file; masks are RLE.
    """

    title, download, images = "ADE20K instances", DOWNLOAD_INSTANCES, IMAGES

    def raw(self, root: Path, split: str) -> Sequence[Path]:
        """The released instances."""
        return [_instances(root, split)]

    def plan(self, root: Path, split: str) -> Sequence[Step]:
        """Creates the JSON file from all instance images."""
        paths = files_by_stem(_instances(root, split), ".png").values()
        items = [Item(sources=(path,)) for path in paths]
        return [
            Step(
                title=f"instances of {split}",
                items=items,
                describe=describe_instances,
                assemble=instances_file,
                json=root / FOLDER / f"ade20k_instance_{split}.json",
            )
        ]

    def parts(self, split: str) -> Sequence[DatasetSpec]:
        """The JSON file."""
        return [instances_part(_dataset(split), f"ade20k_instance_{split}.json")]


def _dataset(split: str) -> DatasetSpec:
    return get_spec(f"openvocab_ade20k_panoptic_{split}")


def _annotations(root: Path, split: str) -> Path:
    """Released label maps: 0 = other, 1..150."""
    return root / FOLDER / "annotations" / SPLITS[split]


def _instances(root: Path, split: str) -> Path:
    """Released instance images: R = class 1..100 of the instance benchmark, G = number of the instance."""
    return root / FOLDER / "annotations_instance" / SPLITS[split]


def _new_labels(split: str) -> str:
    return f"annotations_detectron2/{SPLITS[split]}"


def count_from_zero(item: Item) -> None:
    """Converts labels 1..150 to 0..149, and 0 to 255."""
    values = _labels(item.source)
    write_labels(item.target, np.where(values == 0, 255, values - 1).astype(np.uint8))


def _labels(path: Path) -> NDArray[np.int64]:
    """Released labels (H, W): 1..150, 0 = other."""
    values = read_uint8(path)
    if values.max() > CLASSES:
        raise DatasetError(f"{path}: values up to {values.max()}; expected up to {CLASSES}")
    return values


def read_instances(path: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Reads class indices 0..149 and instance numbers 1..255, both (H, W); number 0 = no instance.

    Raises:
        DatasetError: the file is damaged or not RGB, or has a class that is not in the benchmark.
    """
    values = read_channels(path, 3)
    category, number = values[..., 0], values[..., 1]
    inside = number > 0
    wrong = np.unique(category[inside & ((category < 1) | (category > len(ADE20K_THINGS)))])
    if wrong.size:
        raise DatasetError(
            f"{path}: instances of class {wrong.tolist()[:5]}; the benchmark has 1..{len(ADE20K_THINGS)}"
        )
    things = np.array([0, *ADE20K_THINGS], dtype=np.int64)
    return things[np.where(inside, category, 0)], number


def convert_panoptic(item: Item) -> None:
    """Converts labels and instances to a panoptic PNG."""
    write_panoptic_ids(item.target, _segment_ids(item))


def _segment_ids(item: Item) -> NDArray[np.int64]:
    """Segment ids (H, W): instances pasted over stuff."""
    labels = _labels(item.source)
    category, number = read_instances(item.sources[1])
    if labels.shape != number.shape:
        raise DatasetError(f"{item.sources[1]}: of size {number.shape}, labels of size {labels.shape}")
    return np.where(number > 0, NUMBERS * (category + 1) + number, _stuff_ids(labels))


def _stuff_ids(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Segment ids (H, W) of the stuff in released labels; 0 elsewhere."""
    is_stuff = np.array([False, *(index not in ADE20K_THINGS for index in range(CLASSES))])
    return np.where(is_stuff[labels], NUMBERS * labels, 0)


def describe_segments(item: Item) -> dict[str, Any]:
    """The record of an image with areas and boxes as published: stuff from the labels, things from the PNG."""
    ids = read_expected_ids(item, _segment_ids(item))
    things = np.where(ids % NUMBERS > 0, ids, 0)
    return _record(item, ids, _segments(_stuff_ids(_labels(item.source))) + _segments(things))


def describe_exact_segments(item: Item) -> dict[str, Any]:
    """The record of an image with all areas and boxes from the PNG."""
    ids = read_expected_ids(item, _segment_ids(item))
    return _record(item, ids, _segments(ids))


def _segments(ids: NDArray[np.integer[Any]]) -> list[dict[str, Any]]:
    return segments_info(ids, lambda segment_id: segment_id // NUMBERS - 1)


def _record(item: Item, ids: NDArray[np.integer[Any]], segments: list[dict[str, Any]]) -> dict[str, Any]:
    """Image entry, annotation, and the agreement between labels and instances in pixels."""
    instances = ids % NUMBERS > 0
    return {
        "image": image_entry(item.target.stem, ids.shape),
        "annotation": {
            "image_id": item.target.stem,
            "file_name": item.target.name,
            "segments_info": sorted(segments, key=lambda segment: int(segment["id"])),
        },
        "instance_pixels": int(instances.sum()),
        "agreeing_pixels": int((instances & (ids // NUMBERS == read_labels(item.source))).sum()),
    }


def panoptic_file(records: list[dict[str, Any]]) -> dict[str, Any]:
    """The COCO panoptic file; logs a warning if labels and instances seem to be from different releases."""
    total, agreeing = (sum(r[key] for r in records) for key in ("instance_pixels", "agreeing_pixels"))
    if agreeing < MIN_AGREEMENT * total:
        logger.warning(
            "annotations and annotations_instance agree on %s of %s instance pixels, less than %d %%: they may be "
            "from different releases; if so, download both again",
            *(f"{agreeing:,}", f"{total:,}", round(100 * MIN_AGREEMENT)),
        )
    return {
        "images": [record["image"] for record in records],
        "annotations": [record["annotation"] for record in records],
        "categories": category_entries(_names(), (index in ADE20K_THINGS for index in range(CLASSES))),
    }


def describe_instances(item: Item) -> dict[str, Any]:
    """The image entry and its annotations, without annotation ids."""
    category, number = read_instances(item.source)
    instances = np.unique(np.stack([category, number])[:, number > 0], axis=1).T.tolist()
    return {
        "image": image_entry(item.source.stem, number.shape),
        "annotations": [
            {"image_id": item.source.stem, **instance_entry((category == c) & (number == n), category_id=c)}
            for c, n in instances
        ],
    }


def instances_file(records: list[dict[str, Any]]) -> dict[str, Any]:
    """The COCO instances file."""
    annotations = [annotation for record in records for annotation in record["annotations"]]
    return {
        "images": [record["image"] for record in records],
        "annotations": [{"id": n, **annotation} for n, annotation in enumerate(annotations, start=1)],
        "categories": [{"id": index, "name": _names()[index]} for index in ADE20K_THINGS],
    }


def _names() -> tuple[str, ...]:
    return _dataset("val").vocabulary().names
