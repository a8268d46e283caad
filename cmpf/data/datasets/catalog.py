# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Looks up datasets by name: built-in specs, or "file:PATH" for custom datasets defined by a YAML file.

No file is opened at import; the vocabulary of a dataset is available without its files.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from cmpf.data.datasets.builtin import SPECS
from cmpf.data.datasets.spec import DEFAULT_ROOT, ROOT_VARIABLE, Dataset, DatasetSpec, Kind
from cmpf.data.vocabulary import Vocabulary
from cmpf.errors import DatasetError

FILE_PREFIX = "file:"  # "file:PATH" names the dataset defined by a YAML file
DATASETS: Mapping[str, DatasetSpec] = {spec.name: spec for spec in SPECS}


def dataset_names() -> tuple[str, ...]:
    """Names of all built-in datasets."""
    return tuple(DATASETS)


def dataset_root() -> Path:
    """The folder of all datasets: $DETECTRON2_DATASETS, or ./datasets if it is not set."""
    return Path(os.environ.get(ROOT_VARIABLE) or DEFAULT_ROOT).expanduser()


def is_known(name: str) -> bool:
    """Whether a name is that of a built-in dataset or starts with "file:"."""
    return name in DATASETS or name.startswith(FILE_PREFIX)


def get_spec(name: str) -> DatasetSpec:
    """Returns the spec of a dataset.

    Args:
        name: name of a built-in dataset, or "file:PATH".
    Raises:
        DatasetError: unknown name (the message suggests the closest one and lists all), or an invalid YAML file.
    """
    return locate_dataset(name).spec


def get_vocabulary(name: str) -> Vocabulary:
    """Returns the vocabulary of a dataset, which need not be on disk.

    Raises:
        DatasetError: unknown name, or an invalid YAML file.
        VocabularyError: the vocabulary file is missing or invalid.
    """
    return get_spec(name).vocabulary()


def known_vocabularies() -> tuple[Vocabulary, ...]:
    """Distinct vocabularies of all built-in datasets."""
    return tuple(
        {vocabulary.key: vocabulary for vocabulary in (spec.vocabulary() for spec in SPECS)}.values()
    )


def get_dataset(name: str) -> Dataset:
    """Returns a dataset on disk: a built-in one below dataset_root(), or a custom one from a YAML file.

    Args:
        name: name of a built-in dataset, or "file:PATH".
    Raises:
        DatasetError: unknown name, an invalid YAML file, or a file that training needs is missing.
    """
    dataset = locate_dataset(name)
    dataset.require()
    return dataset


def locate_dataset(name: str) -> Dataset:
    """As get_dataset, without checking that its files exist.

    Raises:
        DatasetError: unknown name, or an invalid YAML file.
    """
    if name.startswith(FILE_PREFIX):
        file = Path(name.removeprefix(FILE_PREFIX)).expanduser()
        from cmpf.data.datasets.custom import read_dataset_file

        return Dataset(*read_dataset_file(file, known=DATASETS), file)
    if name in DATASETS:
        return Dataset(DATASETS[name], dataset_root() / DATASETS[name].folder)
    near = get_close_matches(name, DATASETS, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    custom = f"an own dataset is named {FILE_PREFIX}PATH of its YAML file"
    raise DatasetError(f"{name}: unknown dataset; {hint}known are {', '.join(DATASETS)}; {custom}")


@dataclass(frozen=True)
class PathState:
    """A path that a dataset needs, and whether it exists."""

    path: Path
    found: bool


@dataclass(frozen=True, kw_only=True)
class DatasetSummary:
    """Summary of a dataset.

    kind: type of the training targets.
    folder: its folder, existing or not.
    paths: all paths that it needs.
    images: number of images; None = the dataset is missing or incomplete.
    issue: why it is; "" = the dataset is complete and consistent (no image was opened).
    command: command that creates it.
    classes: names in the order of the class indices, divided into `things` and `stuff`, and into `seen` and `unseen`.
    seen_by: source of the seen flags: "published", or "words" (shared synonyms).
    ignore_label, test_size, evaluators: see DatasetSpec.
    """

    name: str
    kind: Kind
    folder: Path
    paths: tuple[PathState, ...]
    images: int | None
    issue: str
    command: str
    classes: tuple[str, ...]
    things: tuple[str, ...]
    stuff: tuple[str, ...]
    seen: tuple[str, ...]
    unseen: tuple[str, ...]
    seen_by: str
    ignore_label: int
    test_size: tuple[int, int] | None
    evaluators: tuple[str, ...]


def summarize(
    name: str, training: Vocabulary, *, published_seen: tuple[bool, ...] | None = None
) -> DatasetSummary:
    """Summarizes a dataset. Reads its annotations but opens no image.

    Args:
        name: name of a built-in dataset, or "file:PATH".
        training: training vocabulary; classes that share a word with it are seen.
        published_seen: (K,) published seen flags, which override `training`.
    Raises:
        DatasetError: unknown name, or an invalid YAML file.
        VocabularyError: the vocabulary file is missing or invalid.
    """
    dataset = locate_dataset(name)
    spec, vocabulary = dataset.spec, dataset.vocabulary
    seen = vocabulary.seen_in(training) if published_seen is None else published_seen
    paths = tuple(PathState(path, path.exists()) for path in dataset.paths)
    images, issue = _count_images(dataset, paths)
    return DatasetSummary(
        name=dataset.name,
        kind=spec.kind,
        folder=dataset.folder,
        paths=paths,
        images=images,
        issue=issue,
        command=spec.command_in(dataset.folder),
        classes=vocabulary.names,
        things=_names_where(vocabulary, vocabulary.is_thing, True),
        stuff=_names_where(vocabulary, vocabulary.is_thing, False),
        seen=_names_where(vocabulary, seen, True),
        unseen=_names_where(vocabulary, seen, False),
        seen_by="words" if published_seen is None else "published",
        ignore_label=spec.ignore_label,
        test_size=spec.test_size,
        evaluators=spec.evaluators,
    )


def _count_images(dataset: Dataset, paths: tuple[PathState, ...]) -> tuple[int | None, str]:
    """The number of images, or None and the reason."""
    missing = [str(state.path) for state in paths if not state.found]
    if missing:
        return None, f"missing {', '.join(missing)}"
    try:
        return len(dataset.samples_for(*dataset.spec.evaluators)), ""
    except DatasetError as error:
        return None, str(error)


def _names_where(vocabulary: Vocabulary, flags: tuple[bool, ...], value: bool) -> tuple[str, ...]:
    return tuple(name for name, flag in zip(vocabulary.names, flags, strict=True) if flag == value)
