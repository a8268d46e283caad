# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""COCO panoptic, COCO-Stuff and LVIS, which all use the images of COCO 2017."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from cmpf.data.datasets.catalog import get_spec
from cmpf.data.datasets.readers import read_semantic
from cmpf.data.datasets.spec import DatasetSpec
from cmpf.data.preparation.files import folder_items, lookup_table, read_uint8
from cmpf.data.preparation.spec import (
    Item,
    Preparation,
    Step,
    instances_part,
    labels_part,
    panoptic_part,
)
from cmpf.errors import DatasetError
from cmpf.formats.coco_json import coco_form, read_coco
from cmpf.formats.label_map import read_panoptic_ids, write_labels

FOLDER = "coco"
IMAGES = {"train": 118_287, "val": 5_000}
IGNORE = 255
STUFF_GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91}  # category ids of COCO-Stuff that no image uses
STUFF_CATEGORIES = tuple(sorted(set(range(1, 183)) - STUFF_GAPS))
UNKNOWN = 254  # marks invalid values; no class index
STUFF_CLASSES = lookup_table(
    {IGNORE: IGNORE, **{category - 1: index for index, category in enumerate(STUFF_CATEGORIES)}},
    default=UNKNOWN,
    size=256,
    dtype=np.uint8,
)


class CocoPanoptic(Preparation):
    """COCO panoptic: label maps of all 133 classes, created from the panoptic PNGs.

    Raw data: the 2017 panoptic release from cocodataset.org. panoptic_{split}2017.json lists the segments of each PNG;
    the PNG holds their ids as R + 256 G + 65536 B, with 0 = unlabeled. The label is the rank of the segment's category
    among the 133 category ids, also for crowd regions, and 255 for unlabeled pixels.
    """

    title, download, images = "COCO panoptic", "https://cocodataset.org/#download", IMAGES

    def raw(self, root: Path, split: str) -> Sequence[Path]:
        """The panoptic release."""
        folder = root / FOLDER
        return [folder / "annotations" / f"panoptic_{split}2017.json", folder / f"panoptic_{split}2017"]

    def plan(self, root: Path, split: str) -> Sequence[Step]:
        """Creates one label map per entry of the JSON file."""
        json, pngs = self.raw(root, split)
        class_of = _dataset(split).class_of_id or {}
        with coco_form(json):
            items = [
                Item(
                    sources=(pngs / entry["file_name"],),
                    targets=(root / FOLDER / _labels(split) / entry["file_name"],),
                    data=tuple((s["id"], class_of[s["category_id"]]) for s in entry["segments_info"]),
                )
                for entry in read_coco(json, ("annotations",))["annotations"]
            ]
        return [Step(title=f"labels of {split}", items=items, convert=segments_to_classes)]

    def parts(self, split: str) -> Sequence[DatasetSpec]:
        """The label maps, the panoptic and the instances files."""
        spec = _dataset(split)
        return [
            labels_part(spec, _labels(split)),
            panoptic_part(spec),
            instances_part(spec, f"annotations/instances_{split}2017.json"),
        ]


class CocoStuff(Preparation):
    """COCO-Stuff 164k: stuff-and-things label maps with contiguous classes.

    Raw data: stuffthingmaps_trainval2017.zip from github.com/nightrome/cocostuff, unpacked as
    coco/stuffthingmaps/{split}2017/. Pixels hold category id - 1, which is 0..181 with 11 gaps (ids that no image
    uses), and 255 = unlabeled. The new label is the rank of the category among the 171 that are used; 255 stays.
    """

    title, download, images = "COCO-Stuff 164k", "https://github.com/nightrome/cocostuff#downloads", IMAGES

    def raw(self, root: Path, split: str) -> Sequence[Path]:
        """The released maps."""
        return [root / FOLDER / "stuffthingmaps" / f"{split}2017"]

    def plan(self, root: Path, split: str) -> Sequence[Step]:
        """Converts each released map."""
        items = folder_items(
            self.raw(root, split)[0], root / FOLDER / "stuffthingmaps_detectron2" / f"{split}2017"
        )
        return [Step(title=f"labels of {split}", items=items, convert=close_gaps)]

    def parts(self, split: str) -> Sequence[DatasetSpec]:
        """The dataset, with the reader that requires a label map for every image."""
        name = f"openvocab_coco_2017_{'test' if split == 'val' else split}_stuff_sem_seg"
        return [replace(get_spec(name), reader=read_semantic)]


class Lvis(Preparation):
    """LVIS v1: verifies the released JSON file; no preparation is needed.

    Raw data: lvis_v1_{train,val}.json from lvisdataset.org in lvis/, and the images of COCO 2017. Images of the LVIS
    validation split may be in COCO's train2017/ or val2017/; the end of `coco_url` gives the folder.
    """

    title = "LVIS v1"
    download = "https://www.lvisdataset.org/dataset and https://cocodataset.org/#download"
    images: ClassVar[Mapping[str, int]] = {"train": 100_170, "val": 19_809}

    def raw(self, root: Path, split: str) -> Sequence[Path]:
        """The JSON file and the images."""
        coco = root / FOLDER
        return [root / "lvis" / f"lvis_v1_{split}.json", coco / "train2017", coco / "val2017"]

    def parts(self, split: str) -> Sequence[DatasetSpec]:
        """The dataset."""
        return [get_spec(f"openvocab_lvis_v1_{split}")]

    def prepared(self, root: Path, split: str) -> list[Path]:
        """The release."""
        return list(self.raw(root, split))


def _dataset(split: str) -> DatasetSpec:
    return get_spec(f"openvocab_coco_2017_{split}_panoptic_with_sem_seg")


def _labels(split: str) -> str:
    return f"panoptic_semseg_{split}2017"


def segments_to_classes(item: Item) -> None:
    """Converts a panoptic PNG to a label map of class indices."""
    ids, inverse = np.unique(read_panoptic_ids(item.source), return_inverse=True)
    class_of = {0: IGNORE, **dict(item.data)}
    unknown = [segment_id for segment_id in ids.tolist() if segment_id not in class_of]
    if unknown:
        raise DatasetError(f"{item.source}: segments {unknown[:5]} are not in the JSON file")
    classes = np.array([class_of[segment_id] for segment_id in ids.tolist()], dtype=np.uint8)
    write_labels(item.target, classes[inverse])


def close_gaps(item: Item) -> None:
    """Converts category ids minus one to contiguous class indices."""
    values = read_uint8(item.source)
    labels = STUFF_CLASSES[values]
    if (labels == UNKNOWN).any():
        wrong = np.unique(values[labels == UNKNOWN]).tolist()
        raise DatasetError(f"{item.source}: values {wrong[:5]} are not categories of COCO-Stuff")
    write_labels(item.target, labels)
