# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from cmpf.data.datasets.builtin_parts import CITYSCAPES_IDS, COCO_IDS, in_order, scripts, words


def test_coco_has_80_things_and_53_kinds_of_stuff_with_gaps() -> None:
    assert len(COCO_IDS) == len(set(COCO_IDS)) == 133
    assert list(COCO_IDS) == sorted(COCO_IDS)
    # ids that COCO gave up before its first release
    assert not {12, 26, 29, 30, 45, 66, 68, 69, 71, 83} & set(COCO_IDS)
    assert (COCO_IDS[79], COCO_IDS[80], COCO_IDS[-1]) == (90, 92, 200)


def test_cityscapes_has_19_train_ids() -> None:
    index = in_order(CITYSCAPES_IDS)
    assert len(index) == 19
    # road, building, traffic light, sky, person, car, bus, train and bicycle
    assert [index[n] for n in (7, 11, 19, 23, 24, 26, 28, 31, 33)] == [0, 2, 6, 10, 11, 13, 15, 16, 18]


def test_vocabulary_files_are_read_once() -> None:
    assert words("coco_panoptic")() is words("coco_panoptic")()


def test_commands_run_one_after_the_other() -> None:
    assert scripts("a", "b") == "cmpf datasets prepare a && cmpf datasets prepare b"
