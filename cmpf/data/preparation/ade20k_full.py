# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The full release of ADE20K, with 847 classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np

from cmpf.data.datasets.catalog import get_spec
from cmpf.data.datasets.spec import DatasetSpec
from cmpf.data.preparation.files import lookup_table, place, read_channels, stems
from cmpf.data.preparation.spec import Item, Preparation, Step
from cmpf.formats.label_map import write_labels

FOLDER = "ADE20K_2021_17_01"
FOLDER_OF = {"train": "training", "val": "validation"}
IGNORE = 65535
OBJECTS = 255 // 10 * 256 + 256  # R and G are bytes
INDEX_FILE = Path(__file__).resolve().parents[2] / "assets" / "ade20k_full_index.txt"


class Full(Preparation):
    """ADE20K full (A-847): 16-bit label maps of the 847 most frequent classes, and all images in one folder a split.

    Raw: the release ADE20K_2021_17_01 of groups.csail.mit.edu/vision/datasets/ADE20K, images/ADE/{training,validation}/
    PLACE/SCENE/ADE_*.jpg with *_seg.png beside them. The object of a pixel is R / 10 * 256 + G (whole-number division).
    The label is the train id of that object, 65535 for all other objects.
    """

    title = "ADE20K full (A-847)"
    download = "https://groups.csail.mit.edu/vision/datasets/ADE20K (registration)"
    images: ClassVar[Mapping[str, int]] = {"train": 25_574, "val": 2_000}

    def raw(self, root: Path, split: str) -> Sequence[Path]:
        """The released tree."""
        return [root / FOLDER / "images" / "ADE" / FOLDER_OF[split]]

    def plan(self, root: Path, split: str) -> Sequence[Step]:
        """A label map, and the image beside the others."""
        folder = root / FOLDER
        images = folder / "images_detectron2" / FOLDER_OF[split]
        labels = folder / "annotations_detectron2" / FOLDER_OF[split]
        items = [
            Item(
                sources=(path, path.with_name(f"{stem}.jpg")),
                targets=(labels / f"{stem}.tif", images / f"{stem}.jpg"),
            )
            for stem, path in stems(self.raw(root, split)[0], "_seg.png", recursive=True).items()
        ]
        return [Step(title=f"labels of {split}", items=items, convert=number_objects)]

    def parts(self, split: str) -> Sequence[DatasetSpec]:
        """The dataset."""
        return [get_spec(f"openvocab_ade20k_full_sem_seg_{split}")]


@cache
def objects() -> tuple[int, ...]:
    """Object of each of the 847 train ids."""
    lines = INDEX_FILE.read_text(encoding="utf-8").splitlines()
    return tuple(int(word) for line in lines if not line.startswith("#") for word in line.split())


def number_objects(item: Item) -> None:
    """Objects -> train ids; the image is linked, or copied to another disk."""
    train_ids = {index: label for label, index in enumerate(objects())}
    table = lookup_table(train_ids, default=IGNORE, size=OBJECTS, dtype=np.uint16)
    values = read_channels(item.source, 3)
    write_labels(item.target, table[values[..., 0] // 10 * 256 + values[..., 1]])
    place(item.sources[1], item.targets[1])
