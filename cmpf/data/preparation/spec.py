# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Preparation (base class), Step and Item: description of how a dataset is prepared and verified."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from cmpf.data.datasets.readers import read_coco_instances, read_semantic
from cmpf.data.datasets.spec import Dataset, DatasetSpec
from cmpf.data.datasets.validate import Report, validate


@dataclass(frozen=True, kw_only=True)
class Item:
    """One unit of work: source files -> target files.

    sources: input files; the first one names the item in reports.
    targets: output files, each written atomically (cmpf.common.files.replacing); the item is done when all exist.
    data: further input of the step's functions; must be picklable.
    """

    sources: tuple[Path, ...]
    targets: tuple[Path, ...] = ()
    data: Any = None

    @property
    def source(self) -> Path:
        """The first source."""
        return self.sources[0]

    @property
    def target(self) -> Path:
        """The first target."""
        return self.targets[0]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of a preparation: converts files, writes a JSON file about all of them, or both.

    title: title of the progress bar, such as "labels of val".
    items: units of work, in the order of the records for `assemble`.
    convert: creates the targets of an item, in a worker process (so it must be a module-level function).
    describe: returns the record of an item for `assemble`, from its sources and targets; also module-level.
    assemble: builds the content of the JSON file from all records. May raise DatasetError.
    json: path of the JSON file; requires describe and assemble. The file is removed before items are converted and
        written after all are complete, so its presence means that the step is complete.
    """

    title: str
    items: Sequence[Item]
    convert: Callable[[Item], None] | None = None
    describe: Callable[[Item], Any] | None = None
    assemble: Callable[[list[Any]], Mapping[str, Any]] | None = None
    json: Path | None = None


class Preparation(ABC):
    """Base class of preparations. The docstring of a subclass is the text of --help.

    title: name of the dataset.
    download: web page of the release.
    images: split -> number of images in the release; its keys are the splits.

    `root` in the methods is the folder of all datasets.
    """

    title: ClassVar[str]
    download: ClassVar[str]
    images: ClassVar[Mapping[str, int]]

    @abstractmethod
    def raw(self, root: Path, split: str) -> Sequence[Path]:
        """Files and folders of the release that `plan` requires."""

    def plan(self, root: Path, split: str) -> Sequence[Step]:
        """The steps, with items found by listing folders; none if the release is used unchanged.

        Raises:
            DatasetError: files of the release are missing or damaged.
        """
        return []

    @abstractmethod
    def parts(self, split: str) -> Sequence[DatasetSpec]:
        """The specs that `check` validates: built-in datasets, or parts of them."""

    def prepared(self, root: Path, split: str) -> list[Path]:
        """Files and folders that `check` requires."""
        paths = (root / part.folder / path for part in self.parts(split) for path in part.paths)
        return list(dict.fromkeys(paths))

    def check(self, root: Path, split: str, *, images: int, jobs: int) -> Iterator[Report]:
        """Validates each part by opening all its files, as `cmpf datasets check` does.

        Args:
            images: expected number of images; 0 = any number.
            jobs: number of processes.
        """
        for part in self.parts(split):
            dataset = Dataset(part, root / part.folder)
            yield validate(dataset, released=True, jobs=jobs, progress=True).with_count(images)

    @classmethod
    def description(cls) -> str:
        """The docstring, for --help."""
        return inspect.cleandoc(cls.__doc__ or "")


def panoptic_part(spec: DatasetSpec) -> DatasetSpec:
    """Spec of only the JSON file and the PNGs of a panoptic dataset."""
    truth = {key: spec.truth[key] for key in ("annotations", "panoptic")}
    return replace(spec, name=f"{spec.name}, panoptic PNGs", truth=truth)


def labels_part(
    spec: DatasetSpec, labels: str, *, what: str = "labels", image_suffix: str = "", label_suffix: str = ""
) -> DatasetSpec:
    """Spec of only the label maps of a panoptic dataset.

    Args:
        labels: folder of the label maps, relative to that of the dataset.
        what: name of the part in reports.
        image_suffix, label_suffix: see read_semantic.
    """
    reader = partial(read_semantic, image_suffix=image_suffix, label_suffix=label_suffix)
    return replace(
        spec,
        name=f"{spec.name}, {what}",
        kind="semantic",
        truth={"labels": labels},
        reader=reader,
        class_of_id=None,
    )


def instances_part(spec: DatasetSpec, annotations: str) -> DatasetSpec:
    """Spec of only the COCO instances file of a panoptic dataset."""
    return replace(
        spec,
        name=f"{spec.name}, instances",
        kind="instance",
        truth={"annotations": annotations},
        reader=read_coco_instances,
    )
