# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What there is to know of a dataset, on disk or not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cmpf.data.datasets.catalog import locate_dataset
from cmpf.data.datasets.spec import Dataset, Kind
from cmpf.data.vocabulary import Vocabulary
from cmpf.errors import DatasetError


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
