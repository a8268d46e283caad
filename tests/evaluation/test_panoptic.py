# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from helpers.evaluation_data import panoptic_output, panoptic_sample, random_panoptic, segment, shaken
from helpers.panoptic_reference import naive_quality
from PIL import Image

from cmpf.data.targets import PanopticTargets
from cmpf.errors import EvaluationError
from cmpf.evaluation import PanopticEvaluator

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


def test_an_image_processed_twice_counts_once(tmp_path: Path) -> None:
    generator = np.random.default_rng(5)
    once, twice = evaluator(), evaluator()
    for number in range(3):
        truth = random_panoptic(generator, size=(16, 16), classes=3, crowds=True)
        guess = shaken(generator, *truth, classes=3)
        batch = [panoptic_sample(tmp_path, *truth, image_id=number)], [panoptic_output(*guess)]
        once.process(*batch)
        for _ in range(number):
            twice.process(*batch)
        twice.process(*batch)
    assert repr(once.evaluate()) == repr(twice.evaluate())


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
