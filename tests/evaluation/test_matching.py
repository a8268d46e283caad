# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import numpy as np
import pytest
from helpers.evaluation_data import segment

from cmpf.errors import EvaluationError
from cmpf.evaluation.matching import match_segments


def row(*values: int) -> np.ndarray:
    return np.array([values], dtype=np.int64)


def test_an_iou_of_exactly_one_half_is_no_match() -> None:
    # truth 4 pixels, prediction its first 2: 2 / 4 = 0.5
    found = match_segments(row(7, 7, 7, 7), [segment(7, 0)], row(1, 1, 0, 0), [segment(1, 0)])
    assert found.matched_classes.tolist() == []
    assert (found.false_classes.tolist(), found.missed_classes.tolist()) == ([0], [0])


def test_true_void_leaves_the_union() -> None:
    # prediction 4 pixels, 2 on void: IoU = 2 / (3 + 4 - 2 - 2) = 2/3
    found = match_segments(row(5, 5, 5, 0, 0), [segment(5, 2)], row(0, 1, 1, 1, 1), [segment(1, 2)])
    assert found.matched_classes.tolist() == [2]
    assert found.matched_ious.tolist() == [2 / 3]


def test_predicted_void_stays_in_the_union() -> None:
    # truth 5 pixels, 3 of them found: 3 / 5
    found = match_segments(row(5, 5, 5, 5, 5), [segment(5, 0)], row(0, 0, 1, 1, 1), [segment(1, 0)])
    assert found.matched_ious.tolist() == [0.6]


def test_a_prediction_mostly_on_void_is_not_false() -> None:
    mostly = match_segments(row(0, 0, 9), [segment(9, 1)], row(4, 4, 4), [segment(4, 0)])
    assert mostly.false_classes.tolist() == []
    half = match_segments(row(0, 0, 9, 9), [segment(9, 1)], row(4, 4, 4, 4), [segment(4, 0)])
    assert half.false_classes.tolist() == [0]  # 2 / 4 is not more than half


def test_a_prediction_mostly_on_a_crowd_of_its_class_is_not_false_and_the_crowd_is_not_missed() -> None:
    truth, prediction = row(3, 3, 3, 8), row(1, 1, 1, 1)
    segments = [segment(3, 0, crowd=True), segment(8, 1)]
    same = match_segments(truth, segments, prediction, [segment(1, 0)])
    assert same.matched_classes.tolist() == []  # although IoU with the crowd is 3 / 4
    assert (same.false_classes.tolist(), same.missed_classes.tolist()) == ([], [1])
    other = match_segments(truth, segments, prediction, [segment(1, 1)])
    assert other.false_classes.tolist() == [1]


def test_void_and_crowd_count_together() -> None:
    # 1 void + 2 crowd of 5 pixels: 3 / 5 > 1/2, although neither alone is
    truth, prediction = row(0, 3, 3, 8, 8), row(1, 1, 1, 1, 1)
    found = match_segments(truth, [segment(3, 0, crowd=True), segment(8, 1)], prediction, [segment(1, 0)])
    assert found.false_classes.tolist() == []


def test_a_wrong_class_is_false_and_missed() -> None:
    found = match_segments(row(2, 2), [segment(2, 0)], row(1, 1), [segment(1, 1)])
    assert (found.false_classes.tolist(), found.missed_classes.tolist()) == ([1], [0])


def test_a_true_segment_without_pixels_is_missed() -> None:
    found = match_segments(row(2, 2), [segment(2, 0), segment(3, 1)], row(1, 1), [segment(1, 0)])
    assert (found.matched_classes.tolist(), found.missed_classes.tolist()) == ([0], [1])


def test_the_listed_area_of_a_true_segment_counts_before_the_measured_one() -> None:
    # as in the COCO panoptic API: 3 pixels shared, 6 listed and 4 there: 3 / (6 + 3 - 3) = 0.5 is no match
    truth, prediction = row(2, 2, 2, 2), row(1, 1, 1, 0)
    assert match_segments(truth, [segment(2, 0)], prediction, [segment(1, 0)]).matched_ious.tolist() == [0.75]
    listed = [{**segment(2, 0), "area": 6}]
    assert match_segments(truth, listed, prediction, [segment(1, 0)]).matched_ious.tolist() == []


def test_nothing_against_nothing() -> None:
    found = match_segments(row(0, 0), [], row(0, 0), [])
    assert len(found.matched_classes) == len(found.false_classes) == len(found.missed_classes) == 0


def test_large_ids_in_any_order_are_matched() -> None:
    truth = row(16_777_215, 16_777_215, 70_000, 70_000)
    found = match_segments(
        truth,
        [segment(16_777_215, 4), segment(70_000, 3)],
        row(9, 9, 2, 2),
        [segment(9, 4), segment(2, 3)],
    )
    assert sorted(found.matched_classes.tolist()) == [3, 4]
    assert found.matched_ious.tolist() == [1.0, 1.0]


def test_ids_that_are_not_listed_are_named() -> None:
    with pytest.raises(EvaluationError, match=r"prediction image holds ids \[6\]"):
        match_segments(row(1, 1), [segment(1, 0)], row(6, 1), [segment(1, 0)])
    with pytest.raises(EvaluationError, match=r"ground truth image holds ids \[44\]"):
        match_segments(row(1, 44), [segment(1, 0)], row(1, 1), [segment(1, 0)])
    with pytest.raises(EvaluationError, match=r"holds ids \[-1\]"):
        match_segments(row(1, 1), [segment(1, 0)], row(-1, 1), [segment(1, 0)])


def test_a_repeated_id_is_refused() -> None:
    with pytest.raises(EvaluationError, match=r"ids \[1\] twice"):
        match_segments(row(1, 1), [segment(1, 0)], row(1, 1), [segment(1, 0), segment(1, 1)])
    with pytest.raises(EvaluationError, match="0, which is void"):
        match_segments(row(1, 1), [segment(1, 0)], row(0, 0), [segment(0, 0)])


def test_a_listed_prediction_without_pixels_is_refused() -> None:
    with pytest.raises(EvaluationError, match=r"segments \[2\], which have no pixel"):
        match_segments(row(1, 1), [segment(1, 0)], row(1, 1), [segment(1, 0), segment(2, 0)])
