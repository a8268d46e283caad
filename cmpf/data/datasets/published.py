# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What published evaluations took for known datasets: which classes count as seen, and the words of all classes;
and other facts that several rows of the table need: ids, sizes, commands.

Seen classes decide between alpha and beta in the class ensemble, and are found by equal words. CMPF's own words have
more synonyms, so that more classes would be seen by them than in the papers; the published flags are shipped as data.
Most of the published words lie in files that are not CMPF's to ship, see cmpf.weights.vocabularies.
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
TRAINED_ON = "coco_panoptic"  # the vocabulary that all of the flags were made against


@dataclass(frozen=True)
class Shipped:
    """Words of a vocabulary file of the package, or of a part of its classes. read: from the file's name."""

    name: str
    read: Callable[[str], Vocabulary]

    def __call__(self) -> Vocabulary:
        """The classes."""
        return self.read(self.name)


def published_seen(spec: DatasetSpec, training: DatasetSpec) -> tuple[bool, ...] | None:
    """(K,) which classes of a dataset count as seen in the published evaluations.

    Args:
        training: what the model was trained on; the flags are those of COCO panoptic.
    Returns:
        None where none are published: another training dataset, or a dataset of which the papers have no results.
    """
    entry = _entry(spec)
    if entry is None or _name(training) != TRAINED_ON:
        return None
    seen = set(entry["seen"])
    return tuple(index in seen for index in _places(spec))


def has_published_words(spec: DatasetSpec) -> bool:
    """Whether the papers' words for the classes of a dataset are known."""
    return _entry(spec) is not None


def published_words(spec: DatasetSpec, read: Callable[[str], str]) -> Vocabulary:
    """The classes of a dataset in the words of the papers, with the thing flags of its spec.

    Args:
        spec: one that has published words.
        read: key of a published file -> its text.
    Raises:
        VocabularyError: the text is no vocabulary, or has another number of classes.
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
    own = _whole(spec).num_classes
    if len(classes) != own:
        raise VocabularyError(
            f"{spec.name}: the published words are for {len(classes)} classes, not for {own}"
        )
    return other_words(spec, [classes[index] for index in _places(spec)], source="the published words")


def other_words(spec: DatasetSpec, classes: Sequence[Sequence[str]], *, source: str) -> Vocabulary:
    """Other words for the classes of a dataset, in the same order, with the thing flags of its spec.

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
    """Key of each published file -> its SHA-256 in hexadecimal digits."""
    return dict(_facts()["sha256"])


def published_address(key: str) -> str:
    """Where a published file lies."""
    return str(_facts()["address"].format(file=key))


def published_file(spec: DatasetSpec) -> str:
    """Key of the published file that a dataset's words stand in; "" where they need none."""
    entry = _entry(spec)
    return str(entry.get("file", "")) if entry else ""


@cache
def _facts() -> Mapping[str, Any]:
    facts: Mapping[str, Any] = json.loads(FACTS.read_text(encoding="utf-8"))
    return facts


def _name(spec: DatasetSpec) -> str:
    return spec.vocabulary.name if isinstance(spec.vocabulary, Shipped) else ""


def _entry(spec: DatasetSpec) -> Mapping[str, Any] | None:
    entry: Mapping[str, Any] | None = _facts()["vocabularies"].get(_name(spec))
    return entry


def _places(spec: DatasetSpec) -> tuple[int, ...]:
    """Where the classes of a dataset stand in its vocabulary file; a dataset of things has a part of them."""
    whole = _whole(spec).classes
    return tuple(whole.index(words) for words in spec.vocabulary().classes)


def _whole(spec: DatasetSpec) -> Vocabulary:
    return _from_file(_name(spec))


SPLITS = {"train": "training", "val": "validation"}  # folders of ADE20K, Mapillary and PASCAL
BYTE_IGNORE, WORD_IGNORE = 255, 65535
# (shorter side, longest longer side) in testing: of Detectron2 and of most published evaluations, and of streets
USUAL_SIZE, STREET_SIZE = (800, 1333), (1024, 2560)

# COCO's category ids have gaps: 80 of 1..90, and 53 kinds of stuff.
_COCO_GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
_COCO_STUFF = (
    *(92, 93, 95, 100, 107, 109, 112, 118, 119, 122, 125, 128, 130, 133, 138, 141, 144, 145, 147, 148, 149),
    *(151, 154, 155, 156, 159, 161, 166, 168, 171, 175, 176, 177, 178, 180, 181),
    *range(184, 201),
)
COCO_IDS = (*(identity for identity in range(1, 91) if identity not in _COCO_GAPS), *_COCO_STUFF)
COCO_THINGS = COCO_IDS[:80]
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33)  # label ids of train ids 0..18
# fmt: off
_ADE20K_STUFF = frozenset((
    0, 1, 2, 3, 4, 5, 6, 9, 11, 13, 16, 17, 21, 25, 26, 28, 29, 34, 40, 46, 48, 51, 52, 54, 59, 60, 61, 63, 68, 77,
    79, 84, 91, 94, 96, 99, 100, 101, 105, 106, 109, 113, 114, 117, 122, 128, 131, 140, 141, 145,
))
# fmt: on
# The instance benchmark numbers its 100 classes in the order of the 150: its list of names (bed, windowpane, cabinet,
# person, door, ... flag, instanceInfo100_val.txt of github.com/CSAILVision/placeschallenge) agrees in every place.
ADE20K_THINGS = tuple(index for index in range(150) if index not in _ADE20K_STUFF)


def in_order(ids: Iterable[int]) -> dict[int, int]:
    """Category id -> its place in `ids`, which is the class index."""
    return {identity: index for index, identity in enumerate(ids)}


@cache
def _from_file(name: str) -> Vocabulary:
    return Vocabulary.from_file(VOCABULARIES / f"{name}.txt")


def words(name: str) -> Callable[[], Vocabulary]:
    """Reads a vocabulary file of the package when called, and only once."""
    return Shipped(name, _from_file)


@cache
def _things_from_file(name: str) -> Vocabulary:
    everything = _from_file(name)
    return Vocabulary(classes=[everything.classes[index] for index in everything.things])


def things_of(name: str) -> Callable[[], Vocabulary]:
    """The things alone of a vocabulary file of the package, for a dataset of objects."""
    return Shipped(name, _things_from_file)


def scripts(*names: str) -> str:
    """Command that runs preparations one after the other."""
    return " && ".join(f"cmpf datasets prepare {name}" for name in names)
