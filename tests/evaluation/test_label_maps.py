# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Evaluators that read label maps: semantic results and the recall of masks."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.evaluation_data import panoptic_sample, random_panoptic, segment, semantic_sample
from PIL import Image

from cmpf.errors import DatasetError, EvaluationError
from cmpf.evaluation import MaskRecallEvaluator, SemanticEvaluator
from cmpf.evaluation.evaluator import seen_groups
from cmpf.evaluation.mask_recall import best_ious
from cmpf.evaluation.semantic import Confusion, confusion_cells, predicted_indices, semantic_metrics
from cmpf.types import ModelResult

NAMES = ("road", "car", "tree", "bird")


def evaluator(**options: object) -> SemanticEvaluator:
    return SemanticEvaluator(**{"class_names": NAMES, "ignore_label": 255, **options})


def labels(values: object) -> ModelResult:
    return {"sem_seg": torch.as_tensor(np.array(values), dtype=torch.int64)}


def naive(pairs: list, classes: list[int]) -> dict[str, float]:
    """Sets of pixels of one class at a time over the whole dataset."""
    iou, iou_union, accuracy = [], [], []
    for c in classes:
        inter = sum(((t == c) & (p == c)).sum() for t, p in pairs)
        in_truth = sum((t == c).sum() for t, p in pairs)
        union = sum((((t == c) | (p == c)) & (t != 255)).sum() for t, p in pairs)
        if in_truth:
            iou.append(inter / union)
            accuracy.append(inter / in_truth)
        if union:
            iou_union.append(inter / union)
    means = {"mIoU": iou, "mIoU_union": iou_union, "mACC": accuracy}
    return {name: 100 * float(np.mean(v)) if v else math.nan for name, v in means.items()}


def test_a_hand_worked_image(tmp_path: Path) -> None:
    truth = np.array([[0, 0, 0, 0, 1, 1, 255, 255]], dtype=np.uint8)
    judge = evaluator(seen=(True, False, True, True))
    judge.process([semantic_sample(tmp_path, truth)], [labels([[0, 0, 0, 1, 1, 2, 0, 3]])])
    got = judge.evaluate()["sem_seg"]
    # road: 3 right, union 4          -> 75;   car: 1 right, union 1 + 1 (pixel 3) + 1 -> 1/3
    # tree: predicted once, not there -> 0 in mIoU_union only;   bird only on an ignored pixel: nowhere
    assert got["IoU-road"] == pytest.approx(75)
    assert got["IoU-car"] == pytest.approx(100 / 3)
    assert got["mIoU"] == pytest.approx((75 + 100 / 3) / 2)
    assert got["mIoU_union"] == pytest.approx((75 + 100 / 3 + 0) / 3)
    assert got["fwIoU"] == pytest.approx(4 / 6 * 75 + 2 / 6 * 100 / 3)
    assert got["mACC"] == pytest.approx((75 + 50) / 2)
    assert got["pACC"] == pytest.approx(100 * 4 / 6)
    assert (got["S_mIoU"], got["U_mIoU"]) == (pytest.approx(75), pytest.approx(100 / 3))
    assert got["S_mIoU_union"] == pytest.approx(75 / 2)
    assert all(math.isnan(got[name]) for name in ("IoU-bird", "ACC-tree"))


def test_random_images_agree_with_sets_of_pixels(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    pairs, judge = [], evaluator(seen=(True, True, False, False))
    for number in range(12):
        truth = generator.choice(
            np.array([0, 1, 2, 3, 255], np.uint8), size=(13, 9), p=[0.4, 0.3, 0.1, 0.1, 0.1]
        )
        guess = np.where(
            generator.random(truth.shape) < 0.6, truth % 255, generator.integers(0, 4, truth.shape)
        )
        pairs.append((truth, guess))
        judge.process([semantic_sample(tmp_path, truth, image_id=number)], [labels(guess)])
    got = judge.evaluate()["sem_seg"]
    for prefix, classes in {"": [0, 1, 2, 3], "S_": [0, 1], "U_": [2, 3]}.items():
        for metric, value in naive(pairs, classes).items():
            assert got[prefix + metric] == pytest.approx(value), prefix + metric


def test_scores_are_reduced_to_their_best_class(tmp_path: Path) -> None:
    truth = np.array([[3, 1], [0, 2]], dtype=np.uint8)
    scores = torch.nn.functional.one_hot(torch.from_numpy(truth).long(), 4).permute(2, 0, 1) * 0.3
    judge = evaluator()
    judge.process([semantic_sample(tmp_path, truth)], [{"sem_seg": scores}])
    assert judge.evaluate()["sem_seg"]["mIoU"] == 100


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_sixteen_bit_labels_and_many_classes(tmp_path: Path, ending: str) -> None:
    names = [f"class {i}" for i in range(847)]
    truth = np.array([[846, 300, 65535], [846, 0, 512]], dtype=np.uint16)
    path = tmp_path / f"labels.{ending}"
    Image.fromarray(truth).save(path)
    sample = {**semantic_sample(tmp_path, truth), "sem_seg_file_name": str(path)}
    judge = SemanticEvaluator(class_names=names, ignore_label=65535)
    judge.process([sample], [labels([[846, 300, 5], [0, 0, 512]])])
    got = judge.evaluate()["sem_seg"]
    # 846: 1 of 2; 300 and 512: right; 0: 1 right of union 2; 5 lies on an ignored pixel
    assert got["mIoU"] == pytest.approx((50 + 100 + 50 + 100) / 4)
    assert got["mIoU_union"] == got["mIoU"]


def test_palette_images_are_read_by_index(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([200, 10, 10, 7, 7, 7])
    image.putdata([1, 0])
    sample = semantic_sample(tmp_path, np.zeros((1, 2), dtype=np.uint8))
    image.save(sample["sem_seg_file_name"])
    judge = evaluator()
    judge.process([sample], [labels([[1, 0]])])
    assert judge.evaluate()["sem_seg"]["pACC"] == 100


def test_a_label_map_translates_the_files(tmp_path: Path) -> None:
    truth = np.array([[7, 26, 255]], dtype=np.uint8)  # as in Cityscapes: road is 7, car is 26
    judge = evaluator(class_of_id={7: 0, 26: 1})
    judge.process([semantic_sample(tmp_path, truth)], [labels([[0, 0, 2]])])
    got = judge.evaluate()["sem_seg"]
    assert (got["IoU-road"], got["IoU-car"]) == (50, 0)


def test_a_predicted_ignore_label_is_wrong_but_charged_to_no_class(tmp_path: Path) -> None:
    judge = evaluator()
    judge.process([semantic_sample(tmp_path, np.array([[0, 0, 1]], np.uint8))], [labels([[0, 255, 1]])])
    got = judge.evaluate()["sem_seg"]
    assert (got["IoU-road"], got["IoU-car"], got["pACC"]) == (50, 100, pytest.approx(200 / 3))


def test_no_image_and_ignored_images_give_nan(tmp_path: Path) -> None:
    judge = evaluator(seen=(True, True, False, False))
    assert all(math.isnan(value) for value in judge.evaluate()["sem_seg"].values())
    judge.process([semantic_sample(tmp_path, np.full((2, 2), 255, np.uint8))], [labels([[0, 1], [2, 3]])])
    assert all(math.isnan(value) for value in judge.evaluate()["sem_seg"].values())


def test_broken_inputs_are_errors_that_name_the_file(tmp_path: Path) -> None:
    sample = semantic_sample(tmp_path, np.zeros((2, 3), np.uint8))
    with pytest.raises(EvaluationError, match=r"1_semantic\.png: the prediction is \(3, 2\)"):
        evaluator().process([sample], [labels(np.zeros((3, 2)))])
    with pytest.raises(EvaluationError, match=r"1\.jpg: predicted label 4; allowed are 0\.\.3 and 255"):
        evaluator().process([sample], [labels(np.full((2, 3), 4))])
    with pytest.raises(EvaluationError, match=r"1\.jpg: 7 score maps for 4 classes"):
        evaluator().process([sample], [{"sem_seg": torch.zeros(7, 2, 3)}])
    strange = semantic_sample(tmp_path, np.full((2, 3), 9, np.uint8), image_id=2)
    with pytest.raises(DatasetError, match=r"2_semantic\.png: label 9 in 6 pixels; allowed are 0\.\.3"):
        evaluator().process([strange], [labels(np.zeros((2, 3)))])


def test_pixels_are_counted_by_true_and_predicted_class() -> None:
    total = Confusion(2)
    # 2 = ignored in the truth, no class in the prediction
    total.add(confusion_cells(np.array([[0, 0, 1, 2]]), np.array([[0, 1, 2, 0]]), 2))
    total.add(confusion_cells(np.array([[1]]), np.array([[1]]), 2))
    assert total.matrix.tolist() == [[1, 1, 0], [0, 1, 1]]


def test_metrics_of_a_hand_worked_matrix() -> None:
    got = semantic_metrics(np.array([[3.0, 1, 0], [0, 1, 1]]), ["a", "b"], seen_groups([True, False], 2))
    # a: 3 right of union 4;  b: 1 right of union 2 + 2 - 1 = 3;  b's last pixel is "no class"
    assert (got["IoU-a"], got["IoU-b"]) == (75, pytest.approx(100 / 3))
    assert got["mIoU"] == got["mIoU_union"] == pytest.approx((75 + 100 / 3) / 2)
    assert (got["ACC-b"], got["mACC"]) == (50, pytest.approx((75 + 50) / 2))
    assert got["fwIoU"] == pytest.approx(4 / 6 * 75 + 2 / 6 * 100 / 3)
    assert got["pACC"] == pytest.approx(400 / 6)
    assert (got["S_mIoU"], got["U_mIoU"]) == (75, pytest.approx(100 / 3))


def test_a_class_of_the_prediction_only_counts_in_the_union_mean() -> None:
    got = semantic_metrics(np.array([[1.0, 1, 0], [0, 0, 0]]), ["a", "b"], seen_groups(None, 2))
    assert (got["mIoU"], got["mIoU_union"]) == (50, 25)


def test_the_ignore_label_predicted_is_no_class_and_others_are_refused() -> None:
    labels = np.array([[0, 2, 255]], dtype=np.uint8)
    assert predicted_indices(labels, num_classes=3, ignore_label=255, where="x").tolist() == [[0, 2, 3]]
    with pytest.raises(EvaluationError, match=r"p\.png: predicted label 2; allowed are 0\.\.1 and 255"):
        predicted_indices(labels, num_classes=2, ignore_label=255, where="p.png")


def test_an_ignore_label_among_the_classes_stays_a_class_where_it_is_predicted() -> None:
    assert predicted_indices(np.array([[0, 1]]), num_classes=2, ignore_label=0, where="x").tolist() == [
        [0, 1]
    ]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_scores_that_are_no_numbers_are_no_result(tmp_path: Path, bad: float) -> None:
    truth = np.zeros((2, 2), dtype=np.uint8)
    scores = torch.zeros(4, 2, 2)
    scores[2, 1, 1] = bad  # argmax takes NaN for the largest number
    for given in (scores, scores.numpy()):
        with pytest.raises(EvaluationError, match=f"scores: {bad}; expected finite numbers"):
            evaluator().process([semantic_sample(tmp_path, truth)], [{"sem_seg": given}])
    scores[2, 1, 1] = -math.inf  # the logarithm of 0 is a score, as long as another class has more
    evaluator().process([semantic_sample(tmp_path, truth)], [{"sem_seg": scores}])


def test_labels_are_whole_numbers(tmp_path: Path) -> None:
    sample = semantic_sample(tmp_path, np.zeros((1, 2), dtype=np.uint8))
    for values, message in (
        ([[0.7, 0.0]], r"predicted labels: 0\.7; expected whole numbers"),
        ([[math.nan, 0.0]], "predicted labels: nan; expected whole numbers"),
        ([[True, False]], "predicted labels of type bool; expected whole numbers"),
    ):
        with pytest.raises(EvaluationError, match=message):
            evaluator().process([sample], [{"sem_seg": torch.tensor(values)}])
    judge = evaluator()
    judge.process([sample], [{"sem_seg": torch.tensor([[0.0, 1.0]])}])
    assert judge.evaluate()["sem_seg"]["pACC"] == 50
    with pytest.raises(EvaluationError, match=r"image_id .* came before"):
        judge.process([sample], [{"sem_seg": torch.tensor([[0.0, 1.0]])}])


RECALL_NAMES = ("cat", "dog", "sky")


def recall_evaluator(seen: tuple[bool, ...] | None = (True, False, True)) -> MaskRecallEvaluator:
    return MaskRecallEvaluator(class_names=RECALL_NAMES, ignore_label=255, seen=seen)


def proposals(*masks: list[list[int]]) -> ModelResult:
    return {"proposals": torch.tensor(masks, dtype=torch.bool)}


def test_the_recall_of_a_hand_worked_image(tmp_path: Path) -> None:
    truth = np.array([[1, 1, 1, 1, 2, 2, 2, 2, 0, 0, 3, 3]])
    sample = panoptic_sample(tmp_path, truth, [segment(1, 0), segment(2, 0), segment(3, 1)])
    judge = recall_evaluator()
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
    judge = recall_evaluator()
    masks = torch.eye(11, dtype=torch.bool)[:10].reshape(10, 1, 11)
    judge.process([panoptic_sample(tmp_path, truth, infos)], [{"proposals": masks}])
    assert judge.evaluate()["mask_recall"]["recall_50"] == 50


def test_crowds_do_not_count(tmp_path: Path) -> None:
    judge = recall_evaluator()
    sample = panoptic_sample(tmp_path, np.array([[1, 1, 2]]), [segment(1, 0, crowd=True), segment(2, 1)])
    judge.process([sample], [proposals([[0, 0, 1]])])
    got = judge.evaluate()["mask_recall"]
    assert got["recall_90"] == 100
    assert math.isnan(got["S_recall_90"])


def test_without_panoptic_truth_each_class_is_one_segment(tmp_path: Path) -> None:
    judge = recall_evaluator()
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
    judge = recall_evaluator()
    judge.process(
        [panoptic_sample(tmp_path, np.array([[1, 1]]), [segment(1, 0)])],
        [{"proposals": torch.zeros(0, 1, 2, dtype=torch.bool)}],
    )
    assert judge.evaluate()["mask_recall"]["recall_50"] == 0


def test_no_image_gives_nan_also_after_reset(tmp_path: Path) -> None:
    judge = recall_evaluator()
    assert all(math.isnan(value) for value in judge.evaluate()["mask_recall"].values())
    judge.process([panoptic_sample(tmp_path, np.array([[1]]), [segment(1, 0)])], [proposals([[1]])])
    judge.reset()
    assert all(math.isnan(value) for value in judge.evaluate()["mask_recall"].values())


def test_broken_proposals_are_errors_that_name_the_file(tmp_path: Path) -> None:
    sample = panoptic_sample(tmp_path, np.ones((2, 3), dtype=np.int64), [segment(1, 0)])
    with pytest.raises(EvaluationError, match=r"1\.jpg: the prediction is \(3, 2\)"):
        recall_evaluator().process([sample], [{"proposals": torch.zeros(4, 3, 2, dtype=torch.bool)}])
    bad = panoptic_sample(tmp_path, np.array([[1, 1, 1], [2, 2, 2]]), [segment(1, 99), segment(2, 0)])
    with pytest.raises(EvaluationError, match=r"1\.png: class indices \[0, 99\]"):
        recall_evaluator().process([bad], [{"proposals": torch.zeros(4, 2, 3, dtype=torch.bool)}])
    with pytest.raises(EvaluationError, match=r"no proposals.*switch on mask recall"):
        recall_evaluator().process([sample], [{}])
    with pytest.raises(EvaluationError, match=r"1\.jpg: proposals: nan.*; expected True and False"):
        recall_evaluator().process([sample], [{"proposals": torch.full((4, 2, 3), math.nan)}])
    judge = recall_evaluator()
    batch = [sample], [{"proposals": torch.zeros(4, 2, 3, dtype=torch.bool)}]
    judge.process(*batch)
    with pytest.raises(EvaluationError, match="image_id 1 came before"):
        judge.process(*batch)
