# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import contextlib
import io
import math
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cmpf.evaluation import average_precision
from cmpf.evaluation.average_precision import average_precisions, coco_precision

SIZE = 160
CLASSES = 4


def rle(y: int, x: int, height: int, width: int) -> dict[str, Any]:
    mask = np.zeros((SIZE, SIZE), dtype=np.uint8, order="F")
    mask[y : y + height, x : x + width] = 1
    return coco_mask.encode(mask)


def random_dataset(seed: int) -> tuple[list[dict], list[dict], list[dict]]:
    """Objects of all sizes, crowds among them, and detections around them."""
    generator = np.random.default_rng(seed)
    images = [{"id": i, "height": SIZE, "width": SIZE} for i in range(1, 13)]
    annotations, detections = [], []
    for image in images:
        for _ in range(int(generator.integers(0, 6))):
            side = int(generator.choice([12, 50, 120]))
            y, x = (int(v) for v in generator.integers(0, SIZE - side, size=2))
            # The last class is detected but never true.
            category = int(generator.integers(0, CLASSES - 1))
            annotations.append(
                {
                    "image_id": image["id"],
                    "category_id": category,
                    "segmentation": rle(y, x, side, side),
                    "bbox": [x, y, side, side],
                    "area": side * side,
                    "iscrowd": int(generator.random() < 0.15),
                }
            )
            for _ in range(int(generator.integers(0, 3))):
                dy, dx = (int(v) for v in generator.integers(-side // 5, side // 5 + 1, size=2))
                top, left = max(y + dy, 0), max(x + dx, 0)
                detections.append(
                    {
                        "image_id": image["id"],
                        "category_id": category if generator.random() < 0.8 else CLASSES - 1,
                        "score": float(generator.random()),
                        "segmentation": rle(top, left, side - 2, side),
                        "bbox": [left, top, side, side - 2],
                    }
                )
    return images, annotations, detections


def pycocotools_numbers(data: tuple[list, list, list], iou_type: str) -> list[float]:
    images, annotations, detections = data
    truth = COCO()
    truth.dataset = {
        "images": images,
        "annotations": [{**a, "id": i} for i, a in enumerate(annotations, 1)],
        "categories": [{"id": c} for c in range(CLASSES)],
    }
    dropped = "bbox" if iou_type == "segm" else "segmentation"
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        found = truth.loadRes([{k: v for k, v in d.items() if k != dropped} for d in detections])
        evaluation = COCOeval(truth, found, iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [100 * value for value in evaluation.stats[:6]]


@pytest.mark.parametrize("iou_type", ["segm", "bbox"])
@pytest.mark.parametrize("seed", [0, 1])
def test_random_data_agree_with_pycocotools(iou_type: str, seed: int) -> None:
    data = random_dataset(seed)
    precision = coco_precision(*data, num_classes=CLASSES, iou_type=iou_type)
    got = average_precisions(precision, list("abcd"), seen=None)
    expected = pycocotools_numbers(data, iou_type)
    values = [got[name] for name in ("AP", "AP50", "AP75", "APs", "APm", "APl")]
    assert values == pytest.approx(expected, abs=1e-9)
    assert 5 < got["AP"] < 95
    assert math.isnan(got["AP-d"])


def test_classes_worked_off_in_groups_give_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    data = random_dataset(4)
    at_once = coco_precision(*data, num_classes=CLASSES, iou_type="segm")
    monkeypatch.setattr(average_precision, "_PAIRS_AT_ONCE", 1)
    assert coco_precision(*data, num_classes=CLASSES, iou_type="segm").tolist() == at_once.tolist()


def test_a_detection_may_bring_its_own_area() -> None:
    # a missed object of 12 x 12 and a stray detection of 40 x 40 that says that it has 10 pixels: false as a small one
    images = [{"id": 1, "height": SIZE, "width": SIZE}]
    objects = [{**shape, "image_id": 1, "category_id": 0, "iscrowd": 0} for shape in [
        {"segmentation": rle(0, 0, 12, 12), "area": 144}]]  # fmt: skip
    hit = {"image_id": 1, "category_id": 0, "score": 0.5, "segmentation": rle(0, 0, 12, 12)}
    stray = {"image_id": 1, "category_id": 0, "score": 0.9, "segmentation": rle(80, 80, 40, 40)}
    for area, small in ((None, 100), (10, 50)):
        found = [hit, {**stray, "area": area}]
        precision = coco_precision(images, objects, found, num_classes=1, iou_type="segm")
        assert average_precisions(precision, ["a"], None)["APs"] == pytest.approx(small)


def test_a_class_has_at_most_100_detections_in_an_image_and_300_by_the_rules_of_lvis() -> None:
    images = [{"id": 1, "height": SIZE, "width": SIZE}]
    objects = [
        {"image_id": 1, "category_id": 0, "iscrowd": 0, "segmentation": rle(0, 0, 20, 20), "area": 400}
    ]
    stray = {"image_id": 1, "category_id": 0, "score": 0.9, "segmentation": rle(80, 80, 40, 40)}
    hit = {**stray, "score": 0.1, "segmentation": rle(0, 0, 20, 20)}
    for strays, coco, lvis in (
        (99, 100 / 100, 100 / 100),
        (100, 0, 100 / 101),
        (299, 0, 100 / 300),
        (300, 0, 0),
    ):
        detections = [stray] * strays + [hit]
        values = [
            average_precisions(
                coco_precision(
                    images, objects, detections, num_classes=1, iou_type="segm", federated=federated
                ),
                ["a"],
                None,
            )["AP"]
            for federated in (False, True)
        ]
        assert values == [pytest.approx(coco), pytest.approx(lvis)]


def test_seen_and_unseen_are_means_over_their_classes() -> None:
    precision = coco_precision(*random_dataset(2), num_classes=CLASSES, iou_type="segm")
    got = average_precisions(precision, list("abcd"), seen=[True, False, True, False])
    assert got["S_AP"] == pytest.approx((got["AP-a"] + got["AP-c"]) / 2)
    assert got["U_AP"] == pytest.approx(got["AP-b"])  # d has no object


def test_objects_without_any_detection_score_zero_and_no_object_scores_nan() -> None:
    images, annotations, detections = random_dataset(3)
    nothing_found = coco_precision(images, annotations, [], num_classes=CLASSES, iou_type="segm")
    assert average_precisions(nothing_found, list("abcd"), None)["AP"] == 0
    nothing_there = coco_precision(images, [], detections, num_classes=CLASSES, iou_type="segm")
    assert math.isnan(average_precisions(nothing_there, list("abcd"), None)["AP"])
    nothing = coco_precision([], [], [], num_classes=CLASSES, iou_type="bbox")
    assert math.isnan(average_precisions(nothing, list("abcd"), None)["AP"])
