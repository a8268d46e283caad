# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import json
import logging
import math

import numpy as np
import pytest

from cmpf.engine.evaluations import BestMetric, flatten_results, plain_results

METRICS = {"a_val/sem_seg/mIoU": 20.0, "a_val/panoptic/PQ": 10.0, "b_val/panoptic/PQ": 90.0}


def test_results_become_flat_without_those_of_single_classes() -> None:
    results = {"a_val": {"panoptic": {"PQ": 1.0, "PQ-red circle": 2.0}, "segm": {"AP": 3.0}}}
    assert flatten_results(results) == {"a_val/panoptic/PQ": 1.0, "a_val/segm/AP": 3.0}


def test_plain_results_are_python_floats() -> None:
    plain = plain_results({"a": {"t": {"m": np.float64(1.5)}}})
    assert plain == {"a": {"t": {"m": 1.5}}}
    assert type(plain["a"]["t"]["m"]) is float


@pytest.mark.parametrize(
    ("name", "value"),
    [("PQ", 10.0), ("panoptic/PQ", 10.0), ("b_val/panoptic/PQ", 90.0), ("mIoU", 20.0)],
)
def test_a_metric_is_found_by_any_end_of_its_name_in_the_first_dataset(name: str, value: float) -> None:
    best = BestMetric(name)
    assert best.update(5, METRICS)
    assert (best.value, best.iteration) == (value, 5)


def test_only_a_larger_value_is_better() -> None:
    best = BestMetric("PQ")
    values = [10.0, 10.0, 9.0, math.nan, 11.0]
    assert [best.update(i, {"a/t/PQ": v}) for i, v in enumerate(values)] == [True, False, False, False, True]
    assert (best.value, best.iteration) == (11.0, 4)


def test_a_lacking_metric_is_a_warning_that_lists_what_there_is(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert not BestMetric("Q").update(1, METRICS)  # PQ ends with Q, but is another metric
        assert not BestMetric("PQ").update(1, {})
        assert not BestMetric("Q").update(1, {f"a_val/t/{name}": 0.0 for name in "abcdefg"})
    assert "no metric 'Q', but sem_seg/mIoU, panoptic/PQ. Set TEST.BEST_METRIC" in caplog.text
    assert "t/e and 2 more" in caplog.text
    assert "none at all" in caplog.text


def test_the_best_so_far_survives_saving() -> None:
    best, again = BestMetric("PQ"), BestMetric("PQ")
    best.update(3, METRICS)
    again.load_state_dict(json.loads(json.dumps(best.state_dict())))
    assert not again.update(4, METRICS)
    assert (again.value, again.iteration) == (10.0, 3)
