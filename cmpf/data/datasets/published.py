# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Seen flags and class names of published evaluations, and constants shared by the specs of built-in datasets.

The class ensemble weights seen and unseen classes differently (alpha, beta). With CMPF's vocabularies, which have more
synonyms, more classes would count as seen than in the papers, so the published flags are included as data. Most
published class names are in files that CMPF cannot redistribute, see cmpf.weights.vocabularies.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from cmpf.data.datasets.spec import DatasetSpec
from cmpf.data.vocabulary import Vocabulary
from cmpf.data.vocabulary_file import parse_vocabulary_text
from cmpf.errors import VocabularyError

VOCABULARIES = Path(__file__).resolve().parents[2] / "assets" / "vocabularies"
FACTS = VOCABULARIES / "published.json"
TRAINED_ON = "coco_panoptic"  # the training vocabulary of all published flags


@dataclass(frozen=True)
class Shipped:
    """Returns the vocabulary of a file in the package, or a subset of its classes.

    name: name of the file, without suffix.
    read: reads the vocabulary, given the name.
    """

    name: str
    read: Callable[[str], Vocabulary]

    def __call__(self) -> Vocabulary:
        """The vocabulary."""
        return self.read(self.name)


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
    return _from_file(_vocabulary_name(spec))


SPLITS = {"train": "training", "val": "validation"}  # folder names of ADE20K, Mapillary and PASCAL
IGNORE_8_BIT, IGNORE_16_BIT = 255, 65535
# (shorter side, maximum longer side) in testing: Detectron2's default, and for street scenes
USUAL_SIZE, STREET_SIZE = (800, 1333), (1024, 2560)

# COCO's category ids have gaps: 80 things in 1..90, and 53 stuff categories.
_COCO_GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
_COCO_STUFF = (
    *(92, 93, 95, 100, 107, 109, 112, 118, 119, 122, 125, 128, 130, 133, 138, 141, 144, 145, 147, 148, 149),
    *(151, 154, 155, 156, 159, 161, 166, 168, 171, 175, 176, 177, 178, 180, 181),
    *range(184, 201),
)
COCO_IDS = (*(i for i in range(1, 91) if i not in _COCO_GAPS), *_COCO_STUFF)
COCO_THINGS = COCO_IDS[:80]
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33)  # label ids of train ids 0..18
# fmt: off
_ADE20K_STUFF = frozenset((
    0, 1, 2, 3, 4, 5, 6, 9, 11, 13, 16, 17, 21, 25, 26, 28, 29, 34, 40, 46, 48, 51, 52, 54, 59, 60, 61, 63, 68, 77,
    79, 84, 91, 94, 96, 99, 100, 101, 105, 106, 109, 113, 114, 117, 122, 128, 131, 140, 141, 145,
))
# fmt: on
# The instance benchmark numbers its 100 classes in the order of the 150, as checked against its list of names
# (instanceInfo100_val.txt of github.com/CSAILVision/placeschallenge).
ADE20K_THINGS = tuple(index for index in range(150) if index not in _ADE20K_STUFF)


def index_by_id(ids: Iterable[int]) -> dict[int, int]:
    """Category id -> class index, for ids in the order of the classes."""
    return {category_id: index for index, category_id in enumerate(ids)}


@cache
def _from_file(name: str) -> Vocabulary:
    return Vocabulary.from_file(VOCABULARIES / f"{name}.txt")


@cache
def _things_from_file(name: str) -> Vocabulary:
    vocabulary = _from_file(name)
    return Vocabulary(classes=[vocabulary.classes[index] for index in vocabulary.things])


def shipped_vocabulary(name: str) -> Callable[[], Vocabulary]:
    """The vocabulary of a file in the package, which is read on the first call."""
    return Shipped(name, _from_file)


def shipped_things(name: str) -> Callable[[], Vocabulary]:
    """The thing classes of a vocabulary file in the package, for an instance dataset."""
    return Shipped(name, _things_from_file)


def prepare_command(*names: str) -> str:
    """The shell command that runs preparations one after the other."""
    return " && ".join(f"cmpf datasets prepare {name}" for name in names)
