# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The table of datasets, and what lies on disk of them.

A dataset is one row of DATASETS. Nothing is looked up before a dataset is asked for; its vocabulary can be
had without any file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path

from cmpf.data.readers import read_coco_panoptic
from cmpf.data.shapeworld.categories import CATEGORIES, vocabulary_text
from cmpf.data.vocabulary import Vocabulary
from cmpf.errors import DatasetError
from cmpf.types import Sample

ROOT_VARIABLE = "DETECTRON2_DATASETS"
DEFAULT_ROOT = "datasets"
_VOCABULARIES = Path(__file__).parent.parent / "assets" / "vocabularies"


@dataclass(frozen=True, kw_only=True)
class DatasetEntry:
    """One row of the table.

    name: what users write in DATASETS.TRAIN and DATASETS.TEST.
    folder: below the root; all paths are relative to it.
    images: folder of the pictures.
    truth: argument of the reader -> path of ground truth.
    reader: called with images, the paths of `truth`, vocabulary and label_map.
    vocabulary: makes the classes; called each time, reads no file of the dataset.
    command: makes the dataset; {folder} stands for its folder.
    evaluators: kinds of evaluation, of "panoptic", "instance" and "semantic".
    label_map: category id in the files -> class index; None = by name.
    ignore_label: value of unlabelled pixels in semantic label pictures.
    test_size: (shorter side, longest longer side) in testing; None = as the configuration says.
    marker: a file that says that the dataset is whole; "" = none.
    """

    name: str
    folder: str
    images: str
    truth: Mapping[str, str]
    reader: Callable[..., list[Sample]]
    vocabulary: Callable[[], Vocabulary]
    command: str
    evaluators: tuple[str, ...]
    label_map: Mapping[int, int] | None = None
    ignore_label: int = 255
    test_size: tuple[int, int] | None = None
    marker: str = ""

    @property
    def paths(self) -> tuple[str, ...]:
        """Every path that must be there, relative to the folder."""
        return tuple(path for path in (self.images, *self.truth.values(), self.marker) if path)


@dataclass(frozen=True)
class Dataset:
    """A dataset on disk: its row, and the folder where it lies."""

    entry: DatasetEntry
    folder: Path

    @property
    def name(self) -> str:
        """Name of the row."""
        return self.entry.name

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Its classes; category ids of the samples are indices of it."""
        return self.entry.vocabulary()

    @cached_property
    def samples(self) -> list[Sample]:
        """All samples, read when first asked for.

        Raises:
            DatasetError: files are damaged or do not fit together.
        """
        truth = {argument: self.folder / path for argument, path in self.entry.truth.items()}
        return self.entry.reader(
            images=self.folder / self.entry.images,
            vocabulary=self.vocabulary,
            label_map=self.entry.label_map,
            **truth,
        )


def dataset_names() -> tuple[str, ...]:
    """Names of all rows, in the order of the table."""
    return tuple(DATASETS)


def dataset_root() -> Path:
    """Where datasets lie: DETECTRON2_DATASETS, else ./datasets."""
    return Path(os.environ.get(ROOT_VARIABLE) or DEFAULT_ROOT).expanduser()


def get_entry(name: str) -> DatasetEntry:
    """A row of the table.

    Raises:
        DatasetError: no such row; names the nearest and lists all.
    """
    if name in DATASETS:
        return DATASETS[name]
    near = get_close_matches(name, DATASETS, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise DatasetError(f"{name}: unknown dataset; {hint}known are {', '.join(DATASETS)}")


def get_vocabulary(name: str) -> Vocabulary:
    """The classes of a dataset, which need not be on disk.

    Raises:
        DatasetError: unknown name.
    """
    return get_entry(name).vocabulary()


def get_dataset(name: str) -> Dataset:
    """A dataset below the root of this moment.

    Raises:
        DatasetError: unknown name, or a path is missing: names all paths looked for and the command that
            makes them.
    """
    entry = get_entry(name)
    folder = dataset_root() / entry.folder
    paths = [folder / path for path in entry.paths]
    if not all(path.exists() for path in paths):
        looked = ", ".join(f"{path} ({'found' if path.exists() else 'missing'})" for path in paths)
        root = f"{ROOT_VARIABLE} = {os.environ.get(ROOT_VARIABLE) or f'not set, so ./{DEFAULT_ROOT}'}"
        raise DatasetError(
            f"{name}: not on disk ({root}). Looked for {looked}. "
            f"Make it with: {entry.command.format(folder=folder)}"
        )
    return Dataset(entry, folder)


def _shapes_vocabulary() -> Vocabulary:
    return Vocabulary.from_text(vocabulary_text(CATEGORIES), source="ShapeWorld")


def _shapes_seen_vocabulary() -> Vocabulary:
    seen = tuple(category for category in CATEGORIES if category.seen)
    return Vocabulary.from_text(vocabulary_text(seen), source="ShapeWorld, seen")


def _shapes(split: str, vocabulary: Callable[[], Vocabulary]) -> DatasetEntry:
    return DatasetEntry(
        name=f"shapes_{split}",
        folder="shapeworld",
        images=f"{split}/images",
        truth={
            "annotations": f"{split}/panoptic.json",
            "panoptic": f"{split}/panoptic",
            "semantic": f"{split}/semantic",
            "instances": f"{split}/instances.json",
        },
        reader=read_coco_panoptic,
        vocabulary=vocabulary,
        command="python -m cmpf.data.shapeworld --out {folder} --train 4000 --val 1000 --hard-val 200",
        evaluators=("panoptic", "instance", "semantic"),
        marker="complete.json",
    )


def _coco_vocabulary() -> Vocabulary:
    return Vocabulary.from_file(_VOCABULARIES / "coco_panoptic.txt")


def _coco(split: str) -> DatasetEntry:
    return DatasetEntry(
        name=f"openvocab_coco_2017_{split}_panoptic_with_sem_seg",
        folder="coco",
        images=f"{split}2017",
        truth={
            "annotations": f"annotations/panoptic_{split}2017.json",
            "panoptic": f"panoptic_{split}2017",
            "semantic": f"panoptic_semseg_{split}2017",
            "instances": f"annotations/instances_{split}2017.json",
        },
        reader=read_coco_panoptic,
        vocabulary=_coco_vocabulary,
        command="see datasets/README.md",
        evaluators=("panoptic", "instance", "semantic"),
        test_size=(800, 1333),
    )


_ROWS = (
    _coco("train"),
    _coco("val"),
    _shapes("train", _shapes_seen_vocabulary),
    _shapes("val", _shapes_vocabulary),
    _shapes("hard_val", _shapes_vocabulary),
)
DATASETS: Mapping[str, DatasetEntry] = {row.name: row for row in _ROWS}
