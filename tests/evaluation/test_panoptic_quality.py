# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import math

import numpy as np
import pytest

from cmpf.evaluation.matching import SegmentMatches
from cmpf.evaluation.panoptic_quality import PanopticTally, panoptic_groups

NAMES = ("cat", "dog", "sky")


def matches(matched: dict[int, float], false: list[int], missed: list[int]) -> SegmentMatches:
    return SegmentMatches(
        np.array(list(matched), dtype=np.int64),
        np.array(list(matched.values())),
        np.array(false, dtype=np.int64),
        np.array(missed, dtype=np.int64),
    )


def test_images_add_up_class_by_class() -> None:
    tally = PanopticTally(3)
    tally.add(matches({0: 0.8, 2: 0.6}, false=[0, 0], missed=[1]))
    tally.add(matches({0: 0.9}, false=[], missed=[]))
    got = tally.metrics(NAMES, panoptic_groups([True, True, False], None, 3))
    # cat: (0.8 + 0.9) / (2 + 2 / 2);  dog: missed, 0 / (1 / 2);  sky: 0.6 / 1
    assert got["PQ-cat"] == pytest.approx(170 / 3)
    assert (got["SQ-cat"], got["RQ-cat"]) == (pytest.approx(85), pytest.approx(200 / 3))
    assert (got["PQ-dog"], got["SQ-dog"]) == (0, 0)
    assert (got["PQ"], got["PQ_th"], got["PQ_st"]) == (
        pytest.approx((170 / 3 + 0 + 60) / 3),
        pytest.approx(170 / 6),
        pytest.approx(60),
    )


def test_groups_are_all_things_stuff_seen_and_unseen() -> None:
    groups = panoptic_groups([True, False], [False, True], 2)
    assert [(prefix, suffix, flags.tolist()) for prefix, suffix, flags in groups] == [
        ("", "", [True, True]),
        ("", "_th", [True, False]),
        ("", "_st", [False, True]),
        ("S_", "", [False, True]),
        ("U_", "", [True, False]),
    ]


def test_nothing_added_gives_nan() -> None:
    got = PanopticTally(3).metrics(NAMES, panoptic_groups([True, True, True], None, 3))
    assert all(math.isnan(value) for value in got.values())
