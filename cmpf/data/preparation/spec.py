# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What the preparation of a dataset consists of."""

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

    sources: read; the first one names the item in reports.
    targets: written, each whole or not at all (cmpf.common.files.replacing); the item is done when all are there.
    data: anything else that the item's functions need; must go through pickle.
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
    """One part of a preparation: files made from files, a JSON file about all of them, or both.

    title: such as "labels of val".
    items: in the order in which `assemble` sees their records.
    convert: makes the targets of one item; a function of a module, as it runs in other processes.
    describe: the record of one item, for `assemble`; may read sources and targets; likewise a function of a module.
    assemble: the content of the JSON file from all records. May raise DatasetError.
    json: where the content goes; needs describe and assemble. The file is removed before items are made and
        written only when all are whole, so where it is, the rest is.
    """

    title: str
    items: Sequence[Item]
    convert: Callable[[Item], None] | None = None
    describe: Callable[[Item], Any] | None = None
    assemble: Callable[[list[Any]], Mapping[str, Any]] | None = None
    json: Path | None = None


class Preparation(ABC):
    """A release, what is made of it, and what is verified. Its docstring is the text of --help.

    title: name of the dataset.
    download: page where the raw release can be had.
    images: split -> images in the release; its keys are the splits.
    Methods are called with the root of all datasets and the split.
    """

    title: ClassVar[str]
    download: ClassVar[str]
    images: ClassVar[Mapping[str, int]]

    @abstractmethod
    def raw(self, root: Path, split: str) -> Sequence[Path]:
        """Files and folders that must be there before `plan` is asked."""

    def plan(self, root: Path, split: str) -> Sequence[Step]:
        """What to do; finds items by listing folders. No steps = the release is used as it is.

        Raises:
            DatasetError: files of the release are missing or damaged.
        """
        return []

    @abstractmethod
    def parts(self, split: str) -> Sequence[DatasetSpec]:
        """What `check` looks at: datasets of the table, or parts of them."""

    def prepared(self, root: Path, split: str) -> list[Path]:
        """Files and folders that must be there before `check` is asked."""
        paths = (root / part.folder / path for part in self.parts(split) for path in part.paths)
        return list(dict.fromkeys(paths))

    def check(self, root: Path, split: str, *, images: int, jobs: int) -> Iterator[Report]:
        """Opens every file of the prepared tree, as `cmpf datasets check` does, and tells of each part.

        Args:
            images: so many must be there; 0 = any number.
            jobs: processes.
        """
        for part in self.parts(split):
            dataset = Dataset(part, root / part.folder)
            yield validate(dataset, released=True, jobs=jobs, progress=True).with_count(images)

    @classmethod
    def description(cls) -> str:
        """What is made of what."""
        return inspect.cleandoc(cls.__doc__ or "")


def panoptic_part(spec: DatasetSpec) -> DatasetSpec:
    """The JSON file and the PNGs of a panoptic dataset alone."""
    truth = {key: spec.truth[key] for key in ("annotations", "panoptic")}
    return replace(spec, name=f"{spec.name}, panoptic PNGs", truth=truth)


def labels_part(
    spec: DatasetSpec, labels: str, *, what: str = "labels", image_suffix: str = "", label_suffix: str = ""
) -> DatasetSpec:
    """Label maps beside a panoptic dataset alone.

    Args:
        labels: their folder below that of the dataset.
        what: names the part.
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
    """A COCO instances file beside a panoptic dataset alone."""
    return replace(
        spec,
        name=f"{spec.name}, instances",
        kind="instance",
        truth={"annotations": annotations},
        reader=read_coco_instances,
    )
