# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What the rows of the table of datasets are made of: category ids, vocabulary files, commands."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path

from cmpf.data.vocabulary import Vocabulary

VOCABULARIES = Path(__file__).resolve().parents[2] / "assets" / "vocabularies"
BYTE_IGNORE, WORD_IGNORE = 255, 65535
USUAL_SIZE, STREET_SIZE = (800, 1333), (1024, 2560)  # (shorter side, longest longer side) in testing
SPLITS = {"train": "training", "val": "validation"}

# COCO's category ids have gaps: 80 of 1..90, and 53 kinds of stuff.
_COCO_GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
_COCO_STUFF = (
    *(92, 93, 95, 100, 107, 109, 112, 118, 119, 122, 125, 128, 130, 133, 138, 141, 144, 145, 147, 148, 149),
    *(151, 154, 155, 156, 159, 161, 166, 168, 171, 175, 176, 177, 178, 180, 181),
    *range(184, 201),
)
COCO_IDS = (*(identity for identity in range(1, 91) if identity not in _COCO_GAPS), *_COCO_STUFF)
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33)  # label ids of train ids 0..18


def in_order(ids: Iterable[int]) -> dict[int, int]:
    """Category id -> its place in `ids`, which is the class index."""
    return {identity: index for index, identity in enumerate(ids)}


@cache
def _from_file(name: str) -> Vocabulary:
    return Vocabulary.from_file(VOCABULARIES / f"{name}.txt")


def words(name: str) -> Callable[[], Vocabulary]:
    """Reads a vocabulary file of the package when called, and only once."""
    return partial(_from_file, name)


def scripts(*names: str) -> str:
    """Command that runs preparations one after the other."""
    return " && ".join(f"cmpf datasets prepare {name}" for name in names)
