# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.lvis_reference import naive_lvis, random_lvis
from pycocotools import mask as coco_mask

from cmpf.errors import EvaluationError
from cmpf.evaluation import LVISEvaluator, read_frequencies
from cmpf.types import InstanceResult

NAMES = ("ant", "bee", "cat")
SQUARE = [[0, 0, 10, 0, 10, 10, 0, 10]]


def evaluator(**options: Any) -> LVISEvaluator:
    return LVISEvaluator(**{"class_names": NAMES, "frequencies": "rcf", "iou_types": ("segm",), **options})


def sample(classes: list[int], **lists: list[int]) -> dict[str, Any]:
    """An image with one square of each class."""
    return {
        "file_name": "1.jpg",
        "image_id": 1,
        "height": 20,
        "width": 20,
        "annotations": [{"category_id": c, "segmentation": SQUARE} for c in classes],
        "neg_category_ids": [],
        "not_exhaustive_category_ids": [],
        **lists,
    }


def found(*detections: tuple[int, int, float]) -> dict[str, Any]:
    """Squares (x, class, score) of 10 x 10 pixels."""
    masks = torch.zeros(len(detections), 20, 20, dtype=torch.bool)
    for mask, (x, _, _) in zip(masks, detections, strict=True):
        mask[:10, x : x + 10] = True
    return {
        "instances": InstanceResult(
            pred_masks=masks,
            pred_boxes=torch.tensor([[float(x), 0, x + 10, 10] for x, _, _ in detections]).reshape(-1, 4),
            scores=torch.tensor([score for _, _, score in detections], dtype=torch.float64),
            pred_classes=torch.tensor([c for _, c, _ in detections], dtype=torch.int64),
        )
    }


def precision_at_half(image: dict[str, Any], *detections: tuple[int, int, float]) -> dict[str, float]:
    judge = evaluator()
    judge.process([image], [found(*detections)])
    return judge.evaluate()["segm"]


def test_false_detections_count_only_in_classes_that_the_image_was_searched_for() -> None:
    # One ant, found with score 0.5; a wrong ant and a wrong bee with higher scores.
    # Not labeled for bees: the bee is not looked at. The ant halves the precision: 1 right of 2.
    wrong = (10, 0, 0.9), (10, 1, 0.8), (0, 0, 0.5)
    assert precision_at_half(sample([0]), *wrong)["AP-ant"] == pytest.approx(50)
    # Ants are not labeled exhaustively: the wrong one may be right, and is left out.
    assert precision_at_half(sample([0], not_exhaustive_category_ids=[0]), *wrong)["AP-ant"] == pytest.approx(
        100
    )


def test_a_class_known_to_be_absent_makes_detections_false() -> None:
    judge = evaluator()
    second = {**sample([1]), "image_id": 2}
    for negative, expected in (([1], 50), ([], 100)):
        judge.reset()
        first = sample([0], neg_category_ids=negative)
        judge.process([first, second], [found((0, 1, 0.9)), found((0, 1, 0.5))])
        # bee: one object, found; the detection in the first image is false if bees are known to be absent
        assert judge.evaluate()["segm"]["AP-bee"] == pytest.approx(expected)


def test_only_the_300_best_detections_of_an_image_count() -> None:
    ahead = [(10, 2, 0.9)] * 299
    assert precision_at_half(sample([0]), *ahead, (0, 0, 0.5))["AP-ant"] == pytest.approx(100)
    assert precision_at_half(sample([0]), *ahead, (10, 2, 0.8), (0, 0, 0.5))["AP-ant"] == 0


def test_there_are_no_crowds() -> None:
    image = sample([0])
    image["annotations"][0]["iscrowd"] = 1
    assert precision_at_half(image, (0, 0, 0.5))["AP-ant"] == pytest.approx(100)


def test_means_over_rare_common_and_frequent_classes() -> None:
    got = precision_at_half(sample([0, 1]), (0, 0, 0.9))
    assert (got["APr"], got["APc"], got["AP"]) == (pytest.approx(100), 0, pytest.approx(50))
    assert np.isnan(got["APf"])


def as_sample(truth: dict[str, Any], image: dict[str, Any], index: dict[int, int]) -> dict[str, Any]:
    own = [a for a in truth["annotations"] if a["image_id"] == image["id"]]
    lists = ("neg_category_ids", "not_exhaustive_category_ids")
    return {
        **image,
        "image_id": image["id"],
        "annotations": [{**a, "category_id": index[a["category_id"]]} for a in own],
        **{key: [index[c] for c in image[key]] for key in lists},
    }


def as_output(results: list[dict[str, Any]], image: dict[str, Any], index: dict[int, int]) -> dict[str, Any]:
    own = [r for r in results if r["image_id"] == image["id"]]
    masks = np.array([coco_mask.decode(r["segmentation"]) for r in own]).reshape(len(own), 120, 130)
    boxes = np.array([r["bbox"] for r in own]).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return {
        "instances": InstanceResult(
            pred_masks=torch.from_numpy(masks).bool(),
            pred_boxes=torch.from_numpy(boxes),
            scores=torch.tensor([r["score"] for r in own], dtype=torch.float64),
            pred_classes=torch.tensor([index[r["category_id"]] for r in own], dtype=torch.int64),
        )
    }


@pytest.mark.parametrize("seed", [0, 1])
def test_random_data_agree_with_the_rules_read_aloud(seed: int) -> None:
    truth, results = random_lvis(seed)
    index = {c["id"]: i for i, c in enumerate(truth["categories"])}
    judge = LVISEvaluator(
        class_names=[c["name"] for c in truth["categories"]],
        frequencies=[c["frequency"] for c in truth["categories"]],
        seen=[True, False] * 3,
    )
    for image in truth["images"]:
        judge.process([as_sample(truth, image, index)], [as_output(results, image, index)])
    got = judge.evaluate()
    for iou_type in ("segm", "bbox"):
        expected = naive_lvis(truth, results, iou_type)
        assert {name: got[iou_type][name] for name in expected} == pytest.approx(expected, abs=1e-9)
        assert 5 < got[iou_type]["AP"] < 95
        assert got[iou_type]["S_AP"] != got[iou_type]["U_AP"]


def test_frequencies_come_from_the_annotation_file(tmp_path: Path) -> None:
    path = tmp_path / "lvis.json"
    categories = [{"id": 7, "frequency": "c"}, {"id": 2, "frequency": "r"}]
    path.write_text(json.dumps({"categories": categories}))
    assert read_frequencies(path, num_classes=2) == ("r", "c")
    assert read_frequencies(path, num_classes=3, class_of_id={7: 0, 2: 2, 5: 1}) == ("c", "f", "r")
    with pytest.raises(EvaluationError, match=r"lvis\.json: category 7 is none of the 1 classes"):
        read_frequencies(path, num_classes=1)


@pytest.mark.parametrize("text", ['{"categories": [{"id": 1}]}', "[]", "{", None])
def test_files_without_frequencies_are_named(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "lvis.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(EvaluationError, match=r"lvis\.json: no LVIS v1 annotations with a `frequency`"):
        read_frequencies(path, num_classes=1)


def test_broken_inputs_are_refused() -> None:
    with pytest.raises(EvaluationError, match="2 frequencies for 3 classes; give r, c or f for each"):
        evaluator(frequencies="rc")
    with pytest.raises(EvaluationError, match="3 frequencies for 3 classes, unknown 'x'"):
        evaluator(frequencies="rxc")
    image = sample([0])
    del image["neg_category_ids"]
    with pytest.raises(EvaluationError, match=r"1\.jpg: the sample has no 'neg_category_ids'"):
        evaluator().process([image], [found()])
    with pytest.raises(EvaluationError, match=r"1\.jpg: neg_category_ids with class index 9"):
        evaluator().process([sample([0], neg_category_ids=[9])], [found()])
