# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from cmpf.errors import DatasetError, EvaluationError
from cmpf.evaluation import InstanceEvaluator
from cmpf.types import InstanceResult, ModelResult, Sample

NAMES = ("cat", "dog", "sky")
SQUARE = [[10, 10, 30, 10, 30, 30, 10, 30]]  # polygon of the 20 x 20 pixels from (10, 10)


def sample(annotations: list[dict[str, Any]], image_id: int | str = 1) -> Sample:
    return {
        "file_name": f"{image_id}.jpg",
        "image_id": image_id,
        "height": 60,
        "width": 80,
        "annotations": annotations,
    }


def output(
    *found: tuple[tuple[int, int, int, int], int, float], size: tuple[int, int] = (60, 80)
) -> ModelResult:
    """Rectangles (x0, y0, x1, y1) with class and score."""
    masks = torch.zeros(len(found), *size, dtype=torch.bool)
    for mask, ((x0, y0, x1, y1), _, _) in zip(masks, found, strict=True):
        mask[y0:y1, x0:x1] = True
    return {
        "instances": InstanceResult(
            pred_masks=masks,
            pred_boxes=torch.tensor([box for box, _, _ in found], dtype=torch.float32).reshape(-1, 4),
            scores=torch.tensor([score for _, _, score in found]),
            pred_classes=torch.tensor([label for _, label, _ in found], dtype=torch.int64),
        )
    }


def test_a_perfect_detection_scores_100_for_masks_and_boxes() -> None:
    judge = InstanceEvaluator(class_names=NAMES, seen=(True, False, True))
    annotation = {"category_id": 0, "segmentation": SQUARE, "bbox": [10, 10, 20, 20], "area": 400}
    judge.process([sample([annotation], "a word as id")], [output(((10, 10, 30, 30), 0, 0.9))])
    got = judge.evaluate()
    assert set(got) == {"segm", "bbox"}
    for metrics in got.values():
        assert metrics["AP"] == metrics["AP50"] == metrics["APs"] == metrics["S_AP"] == pytest.approx(100)
        assert all(math.isnan(metrics[name]) for name in ("U_AP", "APl", "AP-dog"))


def test_iou_decides_which_thresholds_count() -> None:
    # 20 x 20 object, detection of its upper 14 rows: IoU 0.7 passes 0.50, 0.55, 0.60, 0.65, 0.70, 5 of 10
    judge = InstanceEvaluator(class_names=NAMES, iou_types=("segm",))
    judge.process(
        [sample([{"category_id": 1, "segmentation": SQUARE}])], [output(((10, 10, 30, 24), 1, 0.5))]
    )
    got = judge.evaluate()["segm"]
    assert (got["AP"], got["AP50"], got["AP75"]) == (pytest.approx(50), pytest.approx(100), 0)


def test_box_and_area_default_to_those_of_the_mask() -> None:
    judge = InstanceEvaluator(class_names=NAMES)
    judge.process(
        [sample([{"category_id": 0, "segmentation": SQUARE}])], [output(((10, 10, 30, 30), 0, 0.9))]
    )
    assert judge.evaluate()["bbox"]["APs"] == pytest.approx(100)


def test_uncompressed_and_compressed_rle_equal_polygons() -> None:
    columns = np.zeros((60, 80), dtype=np.uint8)
    columns[10:30, 10:30] = 1
    flat = columns.T.reshape(-1)  # COCO counts down the columns, beginning with zeros
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    from pycocotools import mask as coco_mask

    plain = {"size": [60, 80], "counts": counts}
    packed = coco_mask.encode(np.asfortranarray(columns))
    text = {"size": packed["size"], "counts": packed["counts"].decode()}
    for segmentation in (plain, packed, text):
        judge = InstanceEvaluator(class_names=NAMES, iou_types=("segm",))
        judge.process(
            [sample([{"category_id": 2, "segmentation": segmentation}])],
            [output(((10, 10, 30, 30), 2, 0.4))],
        )
        assert judge.evaluate()["segm"]["AP"] == pytest.approx(100)


def test_a_detection_on_a_crowd_costs_nothing() -> None:
    judge = InstanceEvaluator(class_names=NAMES, iou_types=("segm",))
    crowd = {"category_id": 0, "segmentation": [[40, 30, 80, 30, 80, 60, 40, 60]], "iscrowd": 1}
    thing = {"category_id": 0, "segmentation": SQUARE}
    judge.process(
        [sample([crowd, thing])],
        [output(((45, 35, 60, 50), 0, 0.9), ((10, 10, 30, 30), 0, 0.3))],
    )
    assert judge.evaluate()["segm"]["AP"] == pytest.approx(100)


def test_images_without_objects_or_detections_are_fine_and_none_gives_nan() -> None:
    judge = InstanceEvaluator(class_names=NAMES, seen=(True, True, True))
    assert math.isnan(judge.evaluate()["segm"]["AP"])
    judge.process([sample([], 1), sample([], 2)], [output(), output(((0, 0, 4, 4), 0, 0.5))])
    assert math.isnan(judge.evaluate()["segm"]["AP"])
    judge.process([sample([{"category_id": 0, "segmentation": SQUARE}], 3)], [output()])
    assert judge.evaluate()["segm"]["AP"] == 0
    judge.reset()
    assert math.isnan(judge.evaluate()["bbox"]["AP"])


def test_broken_inputs_are_errors_that_name_the_file() -> None:
    judge = InstanceEvaluator(class_names=NAMES)
    with pytest.raises(EvaluationError, match=r"1\.jpg: annotation with class index 44"):
        judge.process([sample([{"category_id": 44, "segmentation": SQUARE}])], [output()])
    with pytest.raises(
        EvaluationError, match=r"1\.jpg: prediction with class index 3; this vocabulary has 0\.\.2"
    ):
        judge.process([sample([])], [output(((0, 0, 4, 4), 3, 0.5))])
    with pytest.raises(EvaluationError, match=r"1\.jpg: the prediction is \(30, 80\).*\(60, 80\)"):
        judge.process([sample([])], [output(size=(30, 80))])
    rle = {"size": [9, 9], "counts": [81]}
    with pytest.raises(DatasetError, match=r"1\.jpg: a ground-truth mask: run lengths of size \[9, 9\]"):
        judge.process([sample([{"category_id": 0, "segmentation": rle}])], [output()])
    seven = [[1, 1, 5, 1, 5, 5, 1]]
    for broken in ([], [[1, 2, 3, 4]], seven, {"size": [60, 80]}, None, [1, 2]):
        with pytest.raises(DatasetError, match=r"1\.jpg: a ground-truth mask: (a polygon needs|neither)"):
            judge.process([sample([{"category_id": 0, "segmentation": broken}])], [output()])
