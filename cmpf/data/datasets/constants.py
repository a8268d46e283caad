# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Category ids, sizes, split names and preparation commands that the specs of built-in datasets share."""

from __future__ import annotations

from collections.abc import Iterable

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


def prepare_command(*names: str) -> str:
    """The shell command that runs preparations one after the other."""
    return " && ".join(f"cmpf datasets prepare {name}" for name in names)
