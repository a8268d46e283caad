# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.evaluation_data import panoptic_sample, random_panoptic, segment, semantic_sample

from cmpf.errors import EvaluationError
from cmpf.evaluation import MaskRecallEvaluator
from cmpf.evaluation.mask_recall import best_ious
from cmpf.types import ModelResult

NAMES = ("cat", "dog", "sky")


def evaluator(seen: tuple[bool, ...] | None = (True, False, True)) -> MaskRecallEvaluator:
    return MaskRecallEvaluator(class_names=NAMES, ignore_label=255, seen=seen)


def proposals(*masks: list[list[int]]) -> ModelResult:
    return {"proposals": torch.tensor(masks, dtype=torch.bool)}


def test_a_hand_worked_image(tmp_path: Path) -> None:
    truth = np.array([[1, 1, 1, 1, 2, 2, 2, 2, 0, 0, 3, 3]])
    sample = panoptic_sample(tmp_path, truth, [segment(1, 0), segment(2, 0), segment(3, 1)])
    judge = evaluator()
    judge.process(
        [sample],
        [
            proposals(
                [[1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]],  # first cat: 3 / 4, which is not more than 0.75
                [[0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 0, 0]],  # second cat: 4 / 4, two pixels on void do not count
                [[0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 1, 0]],  # dog: 1 / 3
            )
        ],
    )
    got = judge.evaluate()["mask_recall"]
    # cats: both at 0.5, one of two above; dog never; sky absent. Means over classes: (100 + 0) / 2, ...
    assert (got["recall_50"], got["recall_75"], got["recall_90"]) == (50, 25, 25)
    assert (got["S_recall_50"], got["S_recall_75"], got["U_recall_50"]) == (100, 50, 0)
    assert (got["recall_50-cat"], got["recall_50-dog"]) == (100, 0)
    assert math.isnan(got["recall_50-sky"])


def test_frequent_classes_do_not_decide_the_mean(tmp_path: Path) -> None:
    truth = np.arange(1, 12).reshape(1, 11)  # ten cats, found; one dog, missed
    infos = [segment(i, 0) for i in range(1, 11)] + [segment(11, 1)]
    judge = evaluator()
    masks = torch.eye(11, dtype=torch.bool)[:10].reshape(10, 1, 11)
    judge.process([panoptic_sample(tmp_path, truth, infos)], [{"proposals": masks}])
    assert judge.evaluate()["mask_recall"]["recall_50"] == 50


def test_crowds_do_not_count(tmp_path: Path) -> None:
    judge = evaluator()
    sample = panoptic_sample(tmp_path, np.array([[1, 1, 2]]), [segment(1, 0, crowd=True), segment(2, 1)])
    judge.process([sample], [proposals([[0, 0, 1]])])
    got = judge.evaluate()["mask_recall"]
    assert got["recall_90"] == 100
    assert math.isnan(got["S_recall_90"])


def test_without_panoptic_truth_each_class_is_one_segment(tmp_path: Path) -> None:
    judge = evaluator()
    sample = semantic_sample(tmp_path, np.array([[0, 0, 2, 2, 255, 0]], dtype=np.uint8))
    # cat has 3 pixels, 2 found -> 2/3; sky 2 of 2, the ignored pixel does not count
    judge.process([sample], [proposals([[1, 1, 0, 0, 0, 0]], [[0, 0, 1, 1, 1, 0]])])
    got = judge.evaluate()["mask_recall"]
    assert (got["recall_50"], got["recall_75"]) == (100, 50)


def test_a_label_map_translates_semantic_truth(tmp_path: Path) -> None:
    judge = MaskRecallEvaluator(class_names=["cat", "dog"], ignore_label=255, class_of_id={7: 0, 9: 1})
    sample = semantic_sample(tmp_path, np.array([[7, 7, 9]], dtype=np.uint8))
    judge.process([sample], [proposals([[1, 1, 0]])])
    got = judge.evaluate()["mask_recall"]
    assert (got["recall_50-cat"], got["recall_50-dog"]) == (100, 0)


def test_random_images_agree_with_pairs_of_masks() -> None:
    generator = np.random.default_rng(2)
    ids, infos = random_panoptic(generator, size=(40, 50), classes=3, crowds=False)
    masks = generator.random((7, 40, 50)) < 0.5
    masks[3] = ids == infos[0]["id"]
    places = np.zeros_like(ids)
    expected = []
    for place, info in enumerate(infos, start=1):
        truth = ids == info["id"]
        places[truth] = place
        expected.append(max((m & truth).sum() / ((m & (ids > 0)) | truth).sum() for m in masks))
    got = best_ious(torch.from_numpy(masks), torch.from_numpy(places), len(infos))
    assert got.tolist() == pytest.approx(expected)


def test_images_larger_than_one_portion_are_counted_whole() -> None:
    places = torch.zeros(300, 400, dtype=torch.int64)  # 120,000 pixels, portions have 65,536
    places[:, :200] = 1
    mask = torch.zeros(1, 300, 400, dtype=torch.bool)
    mask[:, :, :150] = True
    assert best_ious(mask, places, 2).tolist() == [0.75, 0.0]


def test_no_proposal_means_nothing_found(tmp_path: Path) -> None:
    judge = evaluator()
    judge.process(
        [panoptic_sample(tmp_path, np.array([[1, 1]]), [segment(1, 0)])],
        [{"proposals": torch.zeros(0, 1, 2, dtype=torch.bool)}],
    )
    assert judge.evaluate()["mask_recall"]["recall_50"] == 0


def test_no_image_gives_nan_also_after_reset(tmp_path: Path) -> None:
    judge = evaluator()
    assert all(math.isnan(value) for value in judge.evaluate()["mask_recall"].values())
    judge.process([panoptic_sample(tmp_path, np.array([[1]]), [segment(1, 0)])], [proposals([[1]])])
    judge.reset()
    assert all(math.isnan(value) for value in judge.evaluate()["mask_recall"].values())


def test_broken_inputs_are_errors_that_name_the_file(tmp_path: Path) -> None:
    sample = panoptic_sample(tmp_path, np.ones((2, 3), dtype=np.int64), [segment(1, 0)])
    with pytest.raises(EvaluationError, match=r"1\.jpg: the prediction is \(3, 2\)"):
        evaluator().process([sample], [{"proposals": torch.zeros(4, 3, 2, dtype=torch.bool)}])
    bad = panoptic_sample(tmp_path, np.ones((2, 3), dtype=np.int64), [segment(1, 99)])
    with pytest.raises(EvaluationError, match=r"1\.png: class indices \[99\]"):
        evaluator().process([bad], [{"proposals": torch.zeros(4, 2, 3, dtype=torch.bool)}])
    with pytest.raises(EvaluationError, match=r"no proposals.*switch on mask recall"):
        evaluator().process([sample], [{}])
    with pytest.raises(EvaluationError, match=r"1\.jpg: proposals: nan.*; expected True and False"):
        evaluator().process([sample], [{"proposals": torch.full((4, 2, 3), math.nan)}])
    judge = evaluator()
    batch = [sample], [{"proposals": torch.zeros(4, 2, 3, dtype=torch.bool)}]
    judge.process(*batch)
    with pytest.raises(EvaluationError, match="image_id 1 came before"):
        judge.process(*batch)
