# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What describes a dataset, and a dataset on disk: its files, and its samples in little memory."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeAlias, overload

import numpy as np

from cmpf.data.vocabulary import Vocabulary
from cmpf.errors import DatasetError
from cmpf.types import Sample

Kind: TypeAlias = Literal["panoptic", "semantic", "instance"]
ROOT_VARIABLE = "DETECTRON2_DATASETS"
DEFAULT_ROOT = "datasets"
# Evaluator -> the ground truth beside panoptic PNGs that only it reads: arguments of read_coco_panoptic.
BESIDE = {"instance": "instances", "semantic": "semantic", "cityscapes": "semantic"}


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
        scripts, mIoU and AP); none where nobody but a server has the ground truth.
    class_of_id: category id in the JSON files, or value in the label maps of a semantic dataset -> class
        index; None = by name, or equal.
    ignore_label: value of unlabeled pixels in semantic label maps.
    test_size: (shorter side, longest longer side) in testing; None = 800 and 1333. INPUT.MIN_SIZE_TEST goes before it.
    marker: a file that says that the dataset is whole; "" = none.
    hidden_stuff: areas of stuff in the JSON file may be those before things were pasted over it, as the published
        files of ADE20K have them.
    alias_of: the name of the spec that this one repeats under an earlier name; "" = it is no alias.
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
    hidden_stuff: bool = False
    alias_of: str = ""

    @property
    def paths(self) -> tuple[str, ...]:
        """Every path that must be there for training and for all evaluators, relative to the folder."""
        return self.paths_for(*self.evaluators)

    def paths_for(self, *evaluators: str) -> tuple[str, ...]:
        """Every path that must be there for training and for these evaluators, relative to the folder."""
        return tuple(p for p in (self.images, *self.truth_for(*evaluators).values(), self.marker) if p)

    def truth_for(self, *evaluators: str) -> dict[str, str]:
        """The part of `truth` that training and these evaluators read."""
        wanted = {BESIDE.get(evaluator) for evaluator in evaluators}
        idle = set(BESIDE.values()) - wanted
        return {argument: path for argument, path in self.truth.items() if argument not in idle}

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
    """A dataset on disk.

    spec: what describes it. folder: where it lies. file: the YAML file that its spec comes from, if any.
    words: the vocabulary to look for, where it is another than the spec's; files are read by the spec's.
    """

    spec: DatasetSpec
    folder: Path
    file: Path | None = None
    words: Vocabulary | None = None
    _read: dict[frozenset[str], PackedSamples] = field(default_factory=dict, repr=False, compare=False)

    @property
    def name(self) -> str:
        """Its name in configurations."""
        return self.spec.name

    @property
    def paths(self) -> tuple[Path, ...]:
        """All that training and its evaluators need, whether it is there or not."""
        return tuple(self.folder / path for path in self.spec.paths)

    @property
    def truth(self) -> dict[str, Path]:
        """Argument of the reader -> path of ground truth, whether it is there or not."""
        return {argument: self.folder / path for argument, path in self.spec.truth.items()}

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Its classes; category ids of the samples are indices of it."""
        return self.words or self.spec.vocabulary()

    @property
    def samples(self) -> PackedSamples:
        """All samples, with the ground truth that training reads; read when first asked for.

        Raises:
            DatasetError: files are missing, damaged or do not fit together.
        """
        return self.samples_for()

    def samples_for(self, *evaluators: str) -> PackedSamples:
        """All samples, with the ground truth that training and these evaluators read.

        Args:
            evaluators: of `spec.evaluators`. "instance" adds `annotations` to samples of a panoptic dataset, "semantic"
                and "cityscapes" add `sem_seg_file_name`; large files of instances are not read for nothing.
        Raises:
            DatasetError: files are missing, damaged or do not fit together.
        """
        truth = self.spec.truth_for(*evaluators)
        if frozenset(truth) not in self._read:
            self.require(*evaluators)
            found = self.spec.reader(
                images=self.folder / self.spec.images,
                vocabulary=self.spec.vocabulary(),
                class_of_id=self.spec.class_of_id,
                **{argument: self.folder / path for argument, path in truth.items()},
            )
            self._read[frozenset(truth)] = PackedSamples(found)
        return self._read[frozenset(truth)]

    def require(self, *evaluators: str) -> None:
        """
        Raises:
            DatasetError: a path that training or these evaluators need is missing: names all paths of the dataset and
                the command that makes them.
        """
        if all((self.folder / path).exists() for path in self.spec.paths_for(*evaluators)):
            return
        looked = ", ".join(f"{path} ({'found' if path.exists() else 'missing'})" for path in self.paths)
        if self.file is not None:
            place = f"paths are relative to {self.folder}, where {self.file} is"
            fix = f"Correct the paths in {self.file}"
        else:
            place = f"{ROOT_VARIABLE} = {os.environ.get(ROOT_VARIABLE) or f'not set, so ./{DEFAULT_ROOT}'}"
            fix = f"Make it with: {self.spec.command_in(self.folder)}"
        raise DatasetError(f"{self.name}: not on disk ({place}). Looked for {looked}. {fix}")


class PackedSamples(Sequence[Sample]):
    """Samples in one buffer of bytes; each is unpacked when it is asked for, as a copy of its own.

    Millions of small Python objects would take several times as much memory, and once more in each worker process:
    counting references writes into their pages, so that processes cannot share them. A buffer stays shared.
    """

    def __init__(self, samples: Iterable[Sample]) -> None:
        packed, ends = bytearray(), [0]
        for sample in samples:
            packed += pickle.dumps(sample, protocol=pickle.HIGHEST_PROTOCOL)
            ends.append(len(packed))
        self._packed = np.frombuffer(packed, dtype=np.uint8)
        self._ends = np.array(ends, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, place: int) -> Sample: ...
    @overload
    def __getitem__(self, place: slice) -> list[Sample]: ...
    def __getitem__(self, place: int | slice) -> Sample | list[Sample]:
        if isinstance(place, slice):
            return [self[index] for index in range(*place.indices(len(self)))]
        index = range(len(self))[place]  # counts negative places from the end, and raises IndexError
        sample: Sample = pickle.loads(self._packed[self._ends[index] : self._ends[index + 1]].data)
        return sample
