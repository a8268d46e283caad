# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.evaluation_data import panoptic_output, panoptic_sample, random_panoptic, segment, shaken
from helpers.panoptic import naive_quality
from PIL import Image

from cmpf.data.mapper import PanopticTargets
from cmpf.errors import EvaluationError
from cmpf.evaluation import PanopticEvaluator
from cmpf.evaluation.panoptic import PanopticTally, SegmentMatches, match_segments, panoptic_groups

NAMES = ("cat", "dog", "sky")


def evaluator(seen: tuple[bool, ...] | None = None) -> PanopticEvaluator:
    return PanopticEvaluator(class_names=NAMES, is_thing=(True, True, False), seen=seen)


def test_a_palette_png_means_the_same_in_training_and_in_evaluation(tmp_path: Path) -> None:
    truth = np.array([[300, 300, 70000]])
    sample = panoptic_sample(tmp_path, truth, [segment(300, 0), segment(70000, 2)])
    with Image.open(sample["pan_seg_file_name"]) as drawn:
        drawn.quantize(2).save(sample["pan_seg_file_name"])  # as tools do that shrink PNGs
    assert PanopticTargets().read(sample).tolist() == truth.tolist()
    judge = evaluator()
    judge.process([sample], [panoptic_output(truth, sample["segments_info"])])
    assert judge.evaluate()["panoptic"]["PQ"] == 100


def test_a_hand_worked_image(tmp_path: Path) -> None:
    truth = np.array([[1, 1, 1, 1, 2, 2], [3, 3, 3, 3, 3, 3]])
    guess = np.array([[1, 1, 1, 0, 2, 2], [3, 3, 3, 3, 3, 3]])
    sample = panoptic_sample(tmp_path, truth, [segment(1, 0), segment(2, 0), segment(3, 2)])
    judge = evaluator(seen=(True, False, False))
    judge.process([sample], [panoptic_output(guess, [segment(1, 0), segment(2, 1), segment(3, 2)])])
    got = judge.evaluate()["panoptic"]
    # cat: one match of IoU 3/4, one missed:  PQ = .75 / (1 + .5) = 50, SQ = 75, RQ = 1 / 1.5 = 66.67
    # dog: one false segment:                 PQ = SQ = RQ = 0
    # sky: perfect:                           100
    assert got["PQ-cat"] == pytest.approx(50)
    assert got["SQ-cat"] == pytest.approx(75)
    assert got["RQ-cat"] == pytest.approx(200 / 3)
    assert (got["PQ-dog"], got["SQ-dog"], got["RQ-dog"]) == (0, 0, 0)
    assert got["PQ"] == pytest.approx((50 + 0 + 100) / 3)
    assert got["SQ"] == pytest.approx((75 + 0 + 100) / 3)
    assert (got["PQ_th"], got["PQ_st"]) == (pytest.approx(25), pytest.approx(100))
    assert (got["S_PQ"], got["U_PQ"]) == (pytest.approx(50), pytest.approx(50))


def test_a_perfect_prediction_scores_100(tmp_path: Path) -> None:
    ids, segments = random_panoptic(np.random.default_rng(0), size=(20, 30), classes=3, crowds=False)
    judge = evaluator()
    judge.process([panoptic_sample(tmp_path, ids, segments)], [panoptic_output(ids, segments)])
    got = judge.evaluate()["panoptic"]
    assert (got["PQ"], got["SQ"], got["RQ"]) == (100, 100, 100)


@pytest.mark.parametrize("crowds", [False, True])
def test_random_images_agree_with_the_definition_read_aloud(tmp_path: Path, crowds: bool) -> None:
    generator = np.random.default_rng(3)
    pairs, judge = [], evaluator(seen=(True, False, True))
    for number in range(40):
        truth = random_panoptic(generator, size=(24, 20), classes=3, crowds=crowds)
        guess = shaken(generator, *truth, classes=3)
        pairs.append((truth, guess))
        judge.process([panoptic_sample(tmp_path, *truth, image_id=number)], [panoptic_output(*guess)])
    got = judge.evaluate()["panoptic"]
    groups = {"": [0, 1, 2], "_th": [0, 1], "_st": [2], "S_": [0, 2], "U_": [1]}
    for group, classes in groups.items():
        for metric, value in naive_quality(pairs, classes).items():
            name = f"{metric}{group}" if group.startswith("_") else f"{group}{metric}"
            assert got[name] == pytest.approx(value, abs=1e-9), name
    assert 20 < got["PQ"] < 80  # the comparison is not one of trivial numbers


def test_an_image_that_comes_twice_is_an_error_until_reset(tmp_path: Path) -> None:
    truth = random_panoptic(np.random.default_rng(5), size=(16, 16), classes=3, crowds=True)
    batch = [panoptic_sample(tmp_path, *truth, image_id=7)], [panoptic_output(*truth)]
    judge = evaluator()
    judge.process(*batch)
    with pytest.raises(EvaluationError, match="image_id 7 came before"):
        judge.process(*batch)
    judge.reset()
    judge.process(*batch)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": torch.tensor([[1.5, 2.0]])}, r"predicted segment ids: 1\.5; expected whole numbers"),
        ({"ids": torch.tensor([[float("nan"), 2.0]])}, "predicted segment ids: nan; expected whole numbers"),
        ({"category_id": 1.9}, r"prediction segment with category_id 1\.9, no whole number"),
        ({"category_id": True}, "prediction segment with category_id True, no whole number"),
    ],
)
def test_predictions_that_are_no_whole_numbers_are_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    truth = np.array([[1, 2]]), [{"id": 1, "category_id": 1}, {"id": 2, "category_id": 0}]
    ids = change.pop("ids", torch.tensor([[1.0, 2.0]]))
    guess = [{**segment, **(change if segment["id"] == 1 else {})} for segment in truth[1]]
    with pytest.raises(EvaluationError, match=message):
        evaluator().process([panoptic_sample(tmp_path, *truth)], [{"panoptic_seg": (ids, guess)}])


@pytest.mark.parametrize("area", [1, 0, -4, 2.5, True, math.nan, "4"])
def test_a_listed_area_with_which_iou_could_exceed_1_is_refused(area: Any) -> None:
    ids = np.array([[1, 1, 1, 1]])
    listed = [{"id": 1, "category_id": 0, "area": area}]
    with pytest.raises(
        EvaluationError, match=r"ground truth lists segment 1 with area .* and shows 4 pixels"
    ):
        match_segments(ids, listed, ids, [{"id": 1, "category_id": 0}])
    # One that is too large makes IoU smaller, as panopticapi has it: 4 / (8 + 4 - 4).
    listed[0]["area"] = 7
    assert match_segments(ids, listed, ids, [{"id": 1, "category_id": 0}]).matched_ious.tolist() == [4 / 7]


def test_no_image_gives_nan_and_never_zero() -> None:
    assert all(math.isnan(value) for value in evaluator((True, False, True)).evaluate()["panoptic"].values())


def test_a_class_that_never_occurs_is_nan_and_leaves_the_mean_alone(tmp_path: Path) -> None:
    judge = evaluator(seen=(True, True, False))
    ids = np.ones((2, 2), dtype=np.int64)
    judge.process([panoptic_sample(tmp_path, ids, [segment(1, 0)])], [panoptic_output(ids, [segment(1, 0)])])
    got = judge.evaluate()["panoptic"]
    assert got["PQ"] == got["PQ_th"] == got["S_PQ"] == 100
    assert all(math.isnan(got[name]) for name in ("PQ-dog", "PQ_st", "U_PQ"))


def test_reset_forgets(tmp_path: Path) -> None:
    judge = evaluator()
    ids = np.ones((2, 2), dtype=np.int64)
    judge.process([panoptic_sample(tmp_path, ids, [segment(1, 0)])], [panoptic_output(ids, [segment(1, 0)])])
    judge.reset()
    assert math.isnan(judge.evaluate()["panoptic"]["PQ"])


def test_without_seen_flags_there_are_no_seen_metrics() -> None:
    assert not any(name.startswith(("S_", "U_")) for name in evaluator().evaluate()["panoptic"])


def test_another_size_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    sample = panoptic_sample(tmp_path, np.ones((4, 6), dtype=np.int64), [segment(1, 0)])
    output = panoptic_output(np.ones((6, 4), dtype=np.int64), [segment(1, 0)])
    with pytest.raises(
        EvaluationError, match=r"1\.png: the prediction is \(6, 4\).*ground truth is \(4, 6\)"
    ):
        evaluator().process([sample], [output])


def test_an_unknown_class_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    ids = np.ones((2, 2), dtype=np.int64)
    good = panoptic_sample(tmp_path, ids, [segment(1, 0)])
    with pytest.raises(EvaluationError, match=r"1\.jpg: prediction segment 1 has class index 3.*0\.\.2"):
        evaluator().process([good], [panoptic_output(ids, [segment(1, 3)])])
    bad = panoptic_sample(tmp_path, ids, [segment(1, 17)])
    with pytest.raises(EvaluationError, match=r"1\.png: ground truth segment 1 has class index 17"):
        evaluator().process([bad], [panoptic_output(ids, [segment(1, 0)])])


def test_unlisted_ids_are_an_error_that_names_the_file(tmp_path: Path) -> None:
    ids = np.ones((2, 2), dtype=np.int64)
    sample = panoptic_sample(tmp_path, ids, [segment(1, 0)])
    with pytest.raises(EvaluationError, match=r"1\.png: prediction image holds ids \[1\]"):
        evaluator().process([sample], [panoptic_output(ids, [])])


def test_flags_must_fit_the_classes() -> None:
    with pytest.raises(EvaluationError, match="is_thing has 1 entries for 3 class names"):
        PanopticEvaluator(class_names=NAMES, is_thing=(True,))
    with pytest.raises(EvaluationError, match="seen has 2 entries for 3 class names"):
        PanopticEvaluator(class_names=NAMES, is_thing=(True, True, False), seen=(True, False))


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
