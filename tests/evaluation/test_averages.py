# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import math

import numpy as np
import pytest

from cmpf.errors import EvaluationError
from cmpf.evaluation.averages import class_flags, mean_over, percent_ratio, seen_groups


def test_a_mean_over_nothing_is_nan() -> None:
    assert math.isnan(mean_over(np.array([1.0, 2.0]), np.array([False, False])))
    assert mean_over(np.array([1.0, 2.0, np.nan]), np.array([True, True, False])) == 1.5


def test_a_ratio_over_zero_is_nan() -> None:
    ratio = percent_ratio(np.array([1.0, 0.0]), np.array([4.0, 0.0]))
    assert ratio[0] == 25
    assert math.isnan(ratio[1])


def test_groups_are_all_seen_and_unseen() -> None:
    groups = {prefix: flags.tolist() for prefix, flags in seen_groups([True, False], 2)}
    assert groups == {"": [True, True], "S_": [True, False], "U_": [False, True]}
    assert [prefix for prefix, _ in seen_groups(None, 2)] == [""]


def test_flags_of_another_length_are_refused() -> None:
    with pytest.raises(EvaluationError, match="seen has 1 entries for 2 class names"):
        class_flags("seen", [True], 2)
