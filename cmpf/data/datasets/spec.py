# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What describes a dataset: one row of the table, or one YAML file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

from cmpf.data.vocabulary import Vocabulary
from cmpf.types import Sample

Kind: TypeAlias = Literal["panoptic", "semantic", "instance"]


class DatasetReader(Protocol):
    """What a YAML file may name as `reader`: all samples of a dataset, with the keys that its task needs.

    annotations: a file or a folder. class_of_id: the file's label_map.
    """

    def __call__(
        self,
        *,
        images: Path,
        annotations: Path,
        vocabulary: Vocabulary,
        class_of_id: Mapping[int, int] | None,
    ) -> list[Sample]: ...


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """A dataset, wherever it lies.

    name: what users write in DATASETS.TRAIN and DATASETS.TEST.
    kind: what training learns from it.
    folder: below the root; all paths are relative to it.
    images: folder of the images.
    truth: argument of the reader -> path of ground truth.
    reader: called with images, the paths of `truth`, vocabulary and class_of_id.
    vocabulary: makes the classes; reads no file of the dataset.
    command: makes the dataset; {folder} stands for its folder.
    evaluators: kinds of evaluation, of "panoptic", "instance", "semantic", "lvis" and "cityscapes" (official
        scripts, mIoU and AP).
    class_of_id: category id in the JSON files, or value in the label maps of a semantic dataset -> class
        index; None = by name, or equal.
    ignore_label: value of unlabeled pixels in semantic label maps.
    test_size: (shorter side, longest longer side) in testing; None = 800 and 1333. INPUT.MIN_SIZE_TEST goes before it.
    marker: a file that says that the dataset is whole; "" = none.
    """

    name: str
    kind: Kind
    folder: str
    images: str
    truth: Mapping[str, str]
    reader: Callable[..., list[Sample]]
    vocabulary: Callable[[], Vocabulary]
    command: str
    evaluators: tuple[str, ...]
    class_of_id: Mapping[int, int] | None = None
    ignore_label: int = 255
    test_size: tuple[int, int] | None = None
    marker: str = ""

    @property
    def paths(self) -> tuple[str, ...]:
        """Every path that must be there, relative to the folder."""
        return tuple(path for path in (self.images, *self.truth.values(), self.marker) if path)

    @property
    def class_of_label(self) -> Mapping[int, int] | None:
        """Value in the label maps -> class index; None = they hold class indices.

        Label maps beside panoptic ground truth always do: class_of_id is then that of the JSON files.
        """
        return self.class_of_id if self.kind == "semantic" else None

    def command_in(self, folder: Path) -> str:
        """The command that makes the dataset in a folder."""
        return self.command.replace("{folder}", str(folder))


@dataclass(frozen=True)
class Dataset:
    """A dataset on disk: its row, and the folder where it lies."""

    spec: DatasetSpec
    folder: Path

    @property
    def name(self) -> str:
        """Name of the row."""
        return self.spec.name

    @property
    def paths(self) -> tuple[Path, ...]:
        """All that the readers need, whether it is there or not."""
        return tuple(self.folder / path for path in self.spec.paths)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Its classes; category ids of the samples are indices of it."""
        return self.spec.vocabulary()

    @cached_property
    def samples(self) -> list[Sample]:
        """All samples, read when first asked for.

        Raises:
            DatasetError: files are damaged or do not fit together.
        """
        truth = {argument: self.folder / path for argument, path in self.spec.truth.items()}
        return self.spec.reader(
            images=self.folder / self.spec.images,
            vocabulary=self.vocabulary,
            class_of_id=self.spec.class_of_id,
            **truth,
        )
