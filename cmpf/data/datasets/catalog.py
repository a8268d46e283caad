# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Finds datasets by name, specs of the table and YAML files of people's own, and says what there is to know of them.

Nothing is looked up before a dataset is asked for; its vocabulary can be had without any of its files.
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

FILE_PREFIX = "file:"  # file:PATH is the dataset of a YAML file
DATASETS: Mapping[str, DatasetSpec] = {spec.name: spec for spec in SPECS}


def dataset_names() -> tuple[str, ...]:
    """Names of all specs, in the order of the table."""
    return tuple(DATASETS)


def dataset_root() -> Path:
    """Where datasets lie: DETECTRON2_DATASETS, else ./datasets."""
    return Path(os.environ.get(ROOT_VARIABLE) or DEFAULT_ROOT).expanduser()


def is_known(name: str) -> bool:
    """Whether a name is one of the table, or means a YAML file."""
    return name in DATASETS or name.startswith(FILE_PREFIX)


def get_spec(name: str) -> DatasetSpec:
    """The spec of a dataset of the table, or the dataset of a YAML file.

    Args:
        name: of a spec, or "file:PATH".
    Raises:
        DatasetError: no such dataset, names the nearest and lists all; or the file is missing or wrong.
    """
    return locate_dataset(name).spec


def get_vocabulary(name: str) -> Vocabulary:
    """The classes of a dataset, which need not be on disk.

    Raises:
        DatasetError: unknown name, or a wrong file.
        VocabularyError: the vocabulary file is missing or wrong.
    """
    return get_spec(name).vocabulary()


def known_vocabularies() -> tuple[Vocabulary, ...]:
    """Vocabularies of all datasets, in the order of the table, each once."""
    return tuple(
        {vocabulary.key: vocabulary for vocabulary in (spec.vocabulary() for spec in SPECS)}.values()
    )


def get_dataset(name: str) -> Dataset:
    """A dataset below the root of this moment, or that of a YAML file.

    Raises:
        DatasetError: unknown name, a wrong file, or a path that training needs is missing, see Dataset.require.
    """
    dataset = locate_dataset(name)
    dataset.require()
    return dataset


def locate_dataset(name: str) -> Dataset:
    """A dataset at the place where it should be, whether it is there or not.

    Raises:
        DatasetError: unknown name, or a wrong file.
    """
    if name.startswith(FILE_PREFIX):
        file = Path(name.removeprefix(FILE_PREFIX)).expanduser()
        from cmpf.data.datasets.custom import read_dataset_file

        return Dataset(*read_dataset_file(file, known=DATASETS), file)
    if name in DATASETS:
        return Dataset(DATASETS[name], dataset_root() / DATASETS[name].folder)
    near = get_close_matches(name, DATASETS, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    own = f"an own dataset is named {FILE_PREFIX}PATH of its YAML file"
    raise DatasetError(f"{name}: unknown dataset; {hint}known are {', '.join(DATASETS)}; {own}")


@dataclass(frozen=True)
class PathState:
    """A path that a dataset needs, and whether it is there."""

    path: Path
    found: bool


@dataclass(frozen=True, kw_only=True)
class DatasetSummary:
    """A dataset at a glance.

    kind: what training learns from it. folder: where it lies or should lie. paths: all that it needs.
    images: how many there are; None = it is not there or not whole.
    issue: why not; "" = it is there, and its files fit together (no image was opened).
    command: what makes it.
    classes: names, in the order of the class indices; things and stuff, and seen and unseen classes, each are all of
        them.
    seen_by: what tells seen from unseen classes: "published", or "words" that are equal.
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
    """What there is to know of a dataset. Reads its annotations, opens no image.

    Args:
        name: of a dataset of the table, or "file:PATH".
        training: classes are seen if they share a word with it.
        published_seen: (K,) the flags of the papers, which go before it.
    Raises:
        DatasetError: unknown name, or a wrong YAML file.
        VocabularyError: the vocabulary file is missing or wrong.
    """
    dataset = locate_dataset(name)
    spec, vocabulary = dataset.spec, dataset.vocabulary
    seen = vocabulary.seen_in(training) if published_seen is None else published_seen
    paths = tuple(PathState(path, path.exists()) for path in dataset.paths)
    images, issue = _images(dataset, paths)
    return DatasetSummary(
        name=dataset.name,
        kind=spec.kind,
        folder=dataset.folder,
        paths=paths,
        images=images,
        issue=issue,
        command=spec.command_in(dataset.folder),
        classes=vocabulary.names,
        things=_chosen(vocabulary, vocabulary.is_thing, True),
        stuff=_chosen(vocabulary, vocabulary.is_thing, False),
        seen=_chosen(vocabulary, seen, True),
        unseen=_chosen(vocabulary, seen, False),
        seen_by="words" if published_seen is None else "published",
        ignore_label=spec.ignore_label,
        test_size=spec.test_size,
        evaluators=spec.evaluators,
    )


def _images(dataset: Dataset, paths: tuple[PathState, ...]) -> tuple[int | None, str]:
    """How many images a dataset has, or why that is not known."""
    missing = [str(state.path) for state in paths if not state.found]
    if missing:
        return None, f"missing {', '.join(missing)}"
    try:
        return len(dataset.samples_for(*dataset.spec.evaluators)), ""
    except DatasetError as error:
        return None, str(error)


def _chosen(vocabulary: Vocabulary, flags: tuple[bool, ...], wanted: bool) -> tuple[str, ...]:
    return tuple(name for name, flag in zip(vocabulary.names, flags, strict=True) if flag == wanted)
