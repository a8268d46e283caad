# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Seen flags and class names of published evaluations.

The class ensemble weights seen and unseen classes differently (alpha, beta). With CMPF's vocabularies, which have more
synonyms, more classes would count as seen than in the papers, so the published flags are included as data. Most
published class names are in files that CMPF cannot redistribute, see cmpf.weights.vocabularies.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from cmpf.data.datasets.spec import VOCABULARIES, DatasetSpec, Shipped
from cmpf.data.vocabulary import Vocabulary
from cmpf.data.vocabulary_file import parse_vocabulary_text
from cmpf.errors import VocabularyError

FACTS = VOCABULARIES / "published.json"
TRAINED_ON = "coco_panoptic"  # the training vocabulary of all published flags


def published_seen(spec: DatasetSpec, training: DatasetSpec) -> tuple[bool, ...] | None:
    """(K,) seen flags of a dataset in the published evaluations.

    Args:
        training: training dataset of the model; flags are published for COCO panoptic only.
    Returns:
        None if no flags are published for this pair of datasets.
    """
    entry = _entry(spec)
    if entry is None or _vocabulary_name(training) != TRAINED_ON:
        return None
    seen = set(entry["seen"])
    return tuple(index in seen for index in _indices_in_file(spec))


def has_published_words(spec: DatasetSpec) -> bool:
    """Whether published class names are known for a dataset."""
    return _entry(spec) is not None


def published_words(spec: DatasetSpec, read: Callable[[str], str]) -> Vocabulary:
    """The vocabulary of a dataset with the published class names, and the thing flags of its spec.

    Args:
        spec: a dataset with published class names.
        read: returns the text of a published file, given its key.
    Raises:
        VocabularyError: no names are published, or the text is no vocabulary or has another number of classes.
    """
    entry = _entry(spec)
    if entry is None:
        raise VocabularyError(
            f"{spec.name}: no published words are known; set DATASETS.VOCABULARIES own, or {{{spec.name}: FILE}}"
        )
    if "words" in entry:
        classes: Sequence[Sequence[str]] = [(word,) for word in entry["words"]]
    else:
        text = read(entry["file"])
        classes, _ = parse_vocabulary_text(text, source=f"published words {entry['file']}", repeats=True)
        classes = classes[entry["skip"] :]
    expected = _file_vocabulary(spec).num_classes
    if len(classes) != expected:
        raise VocabularyError(
            f"{spec.name}: the published words are for {len(classes)} classes, not for {expected}"
        )
    selected = [classes[index] for index in _indices_in_file(spec)]
    return other_words(spec, selected, source="the published words")


def other_words(spec: DatasetSpec, classes: Sequence[Sequence[str]], *, source: str) -> Vocabulary:
    """A vocabulary with other words for the classes of a dataset, in the same order and with the same thing flags.

    Raises:
        VocabularyError: another number of classes.
    """
    own = spec.vocabulary()
    if len(classes) != own.num_classes:
        raise VocabularyError(
            f"{spec.name} has {own.num_classes} classes and {source} {len(classes)}; other words need one line for "
            "each class, in the order of the dataset's"
        )
    return Vocabulary(classes=classes, things=own.things, repeats=True)


def published_files() -> dict[str, str]:
    """Key of each published file -> its SHA-256 (hexadecimal)."""
    return dict(_facts()["sha256"])


def published_address(key: str) -> str:
    """URL of a published file."""
    return str(_facts()["address"].format(file=key))


def published_file(spec: DatasetSpec) -> str:
    """Key of the published file with the class names of a dataset; "" if none is needed."""
    entry = _entry(spec)
    return str(entry.get("file", "")) if entry else ""


@cache
def _facts() -> Mapping[str, Any]:
    facts: Mapping[str, Any] = json.loads(FACTS.read_text(encoding="utf-8"))
    return facts


def _vocabulary_name(spec: DatasetSpec) -> str:
    return spec.vocabulary.name if isinstance(spec.vocabulary, Shipped) else ""


def _entry(spec: DatasetSpec) -> Mapping[str, Any] | None:
    entry: Mapping[str, Any] | None = _facts()["vocabularies"].get(_vocabulary_name(spec))
    return entry


def _indices_in_file(spec: DatasetSpec) -> tuple[int, ...]:
    """Indices of the classes in the vocabulary file, of which an instance dataset has the things only."""
    classes = _file_vocabulary(spec).classes
    return tuple(classes.index(words) for words in spec.vocabulary().classes)


def _file_vocabulary(spec: DatasetSpec) -> Vocabulary:
    return Shipped(_vocabulary_name(spec))()
