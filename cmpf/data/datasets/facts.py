# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Facts of published datasets that several rows of the table need: ids, words, sizes, commands."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

from cmpf.data.datasets.published import Shipped
from cmpf.data.vocabulary import Vocabulary

VOCABULARIES = Path(__file__).resolve().parents[2] / "assets" / "vocabularies"
SPLITS = {"train": "training", "val": "validation"}  # folders of ADE20K, Mapillary and PASCAL
BYTE_IGNORE, WORD_IGNORE = 255, 65535
USUAL_SIZE, STREET_SIZE = (800, 1333), (1024, 2560)  # (shorter side, longest longer side) in testing

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
