# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""DatasetSpec (description of a dataset), packaged vocabularies, Dataset (a dataset on disk) and its samples."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Literal, TypeAlias, overload

import numpy as np

from cmpf.data.vocabulary import Vocabulary
from cmpf.errors import DatasetError
from cmpf.types import Sample

Kind: TypeAlias = Literal["panoptic", "semantic", "instance"]
ROOT_VARIABLE = "DETECTRON2_DATASETS"
DEFAULT_ROOT = "datasets"
VOCABULARIES = Path(__file__).resolve().parents[2] / "assets" / "vocabularies"
# Evaluator -> argument of read_coco_panoptic for the additional ground truth that only this evaluator reads.
EVALUATOR_TRUTH = {"instance": "instances", "semantic": "semantic", "cityscapes": "semantic"}


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """Describes a dataset, independently of where it is stored.

    name: name in DATASETS.TRAIN and DATASETS.TEST.
    kind: type of the training targets.
    folder: folder below the dataset root; all paths are relative to it.
    images: folder of the images.
    truth: argument of the reader -> path of the ground truth.
    reader: called with `images`, the paths in `truth`, `vocabulary` and `class_of_id`.
    vocabulary: returns the vocabulary, without reading files of the dataset.
    command: command that creates the dataset; {folder} is replaced by its folder.
    evaluators: any of "panoptic", "instance", "semantic", "lvis" and "cityscapes" (official scripts, mIoU and AP);
        empty if the ground truth is not public.
    class_of_id: category id in the JSON files, or value in the label maps of a semantic dataset -> class
        index; None = categories are matched by name, and label maps hold class indices.
    ignore_label: value of unlabeled pixels in semantic label maps.
    test_size: (shorter side, maximum longer side) in testing; None = (800, 1333). INPUT.MIN_SIZE_TEST overrides it.
    marker: file whose presence means that the dataset is complete; "" = none.
    hidden_stuff: areas of stuff in the JSON file may include pixels that are covered by things, as in the published
        files of ADE20K.
    alias_of: name of the spec for which this one is a former name; "" = not an alias.
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
        """All paths that training and all evaluators need, relative to the folder."""
        return self.paths_for(*self.evaluators)

    def paths_for(self, *evaluators: str) -> tuple[str, ...]:
        """All paths that training and these evaluators need, relative to the folder."""
        return tuple(p for p in (self.images, *self.truth_for(*evaluators).values(), self.marker) if p)

    def truth_for(self, *evaluators: str) -> dict[str, str]:
        """The entries of `truth` that training and these evaluators read."""
        unused = set(EVALUATOR_TRUTH.values()) - {EVALUATOR_TRUTH.get(e) for e in evaluators}
        return {argument: path for argument, path in self.truth.items() if argument not in unused}

    @property
    def class_of_label(self) -> Mapping[int, int] | None:
        """Value in the label maps -> class index; None = they hold class indices.

        Label maps of a panoptic dataset always hold class indices, since class_of_id is for its JSON files.
        """
        return self.class_of_id if self.kind == "semantic" else None

    def command_in(self, folder: Path) -> str:
        """The command that creates the dataset in a folder."""
        return self.command.replace("{folder}", str(folder))


@dataclass(frozen=True)
class Shipped:
    """Returns the vocabulary of a file in the package, which is read on the first call.

    name: name of the file, without suffix.
    things_only: leave out the stuff classes, for an instance dataset.
    """

    name: str
    things_only: bool = False

    def __call__(self) -> Vocabulary:
        """The vocabulary, always the same object."""
        return _read_shipped(self)


@cache
def _read_shipped(shipped: Shipped) -> Vocabulary:
    vocabulary = Vocabulary.from_file(VOCABULARIES / f"{shipped.name}.txt")
    if not shipped.things_only:
        return vocabulary
    return Vocabulary(classes=[vocabulary.classes[index] for index in vocabulary.things])


@dataclass(frozen=True)
class Dataset:
    """A dataset on disk.

    spec: its description.
    folder: its folder.
    file: the YAML file that defines it; None = a built-in dataset.
    words: vocabulary that replaces the spec's for prediction; files are still read with the spec's.
    """

    spec: DatasetSpec
    folder: Path
    file: Path | None = None
    words: Vocabulary | None = None
    _cache: dict[frozenset[str], PackedSamples] = field(default_factory=dict, repr=False, compare=False)

    @property
    def name(self) -> str:
        """Its name in configurations."""
        return self.spec.name

    @property
    def paths(self) -> tuple[Path, ...]:
        """All paths that training and the evaluators need, existing or not."""
        return tuple(self.folder / path for path in self.spec.paths)

    @property
    def truth(self) -> dict[str, Path]:
        """Argument of the reader -> path of the ground truth, existing or not."""
        return {argument: self.folder / path for argument, path in self.spec.truth.items()}

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Its classes; category ids of the samples are indices into it."""
        return self.words or self.spec.vocabulary()

    @property
    def samples(self) -> PackedSamples:
        """All samples with the ground truth for training; read on first access.

        Raises:
            DatasetError: files are missing, damaged or inconsistent.
        """
        return self.samples_for()

    def samples_for(self, *evaluators: str) -> PackedSamples:
        """All samples with the ground truth for training and these evaluators; read on the first call.

        Args:
            evaluators: from `spec.evaluators`. In a panoptic dataset "instance" adds `annotations` to the samples, and
                "semantic" and "cityscapes" add `sem_seg_file_name`; the large instances file is read only if needed.
        Raises:
            DatasetError: files are missing, damaged or inconsistent.
        """
        truth = self.spec.truth_for(*evaluators)
        if frozenset(truth) not in self._cache:
            self.require(*evaluators)
            samples = self.spec.reader(
                images=self.folder / self.spec.images,
                vocabulary=self.spec.vocabulary(),
                class_of_id=self.spec.class_of_id,
                **{argument: self.folder / path for argument, path in truth.items()},
            )
            self._cache[frozenset(truth)] = PackedSamples(samples)
        return self._cache[frozenset(truth)]

    def require(self, *evaluators: str) -> None:
        """Checks that all files exist that training and these evaluators need.

        Raises:
            DatasetError: a path is missing; names all paths of the dataset and the command that creates them.
        """
        if all((self.folder / path).exists() for path in self.spec.paths_for(*evaluators)):
            return
        looked = ", ".join(f"{path} ({'found' if path.exists() else 'missing'})" for path in self.paths)
        if self.file is not None:
            location = f"paths are relative to {self.folder}, where {self.file} is"
            fix = f"Correct the paths in {self.file}"
        else:
            location = f"{ROOT_VARIABLE} = {os.environ.get(ROOT_VARIABLE) or f'not set, so ./{DEFAULT_ROOT}'}"
            fix = f"Make it with: {self.spec.command_in(self.folder)}"
        raise DatasetError(f"{self.name}: not on disk ({location}). Looked for {looked}. {fix}")


class PackedSamples(Sequence[Sample]):
    """A sequence of samples, pickled into one buffer; each access returns a new copy.

    A list of Python objects would take several times as much memory, and would be copied into each worker process,
    because reference counting writes to the objects' memory pages (copy-on-write). A buffer stays shared.
    """

    def __init__(self, samples: Iterable[Sample]) -> None:
        buffer, offsets = bytearray(), [0]
        for sample in samples:
            buffer += pickle.dumps(sample, protocol=pickle.HIGHEST_PROTOCOL)
            offsets.append(len(buffer))
        self._buffer = np.frombuffer(buffer, dtype=np.uint8)
        self._offsets = np.array(offsets, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]  # resolves negative indices, and raises IndexError
        sample: Sample = pickle.loads(self._buffer[self._offsets[index] : self._offsets[index + 1]].data)
        return sample
