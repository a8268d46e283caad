# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.lvis_reference import naive_lvis, random_lvis
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cmpf.errors import DatasetError, EvaluationError
from cmpf.evaluation import InstanceEvaluator, LVISEvaluator, average_precision, read_frequencies
from cmpf.evaluation.average_precision import average_precisions, coco_precision
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
    monkeypatch.setattr(average_precision, "_MAX_PAIRS", 1)
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": torch.tensor([math.nan])}, "scores: nan; expected finite numbers"),
        ({"scores": torch.tensor([0.9, 0.8])}, "1 masks, 1 boxes, 2 scores, 1 classes; expected one of each"),
        (
            {"pred_boxes": torch.tensor([[0, 0, math.inf, 1]])},
            "predicted boxes: inf; expected finite numbers",
        ),
        ({"pred_classes": torch.tensor([0.9])}, r"predicted classes: 0\.9; expected whole numbers"),
        ({"pred_classes": torch.tensor([True])}, "predicted classes of type bool; expected whole numbers"),
        ({"pred_masks": torch.full((1, 60, 80), 0.3)}, r"predicted masks: 0\.3, .*; expected True and False"),
    ],
)
def test_predictions_that_cannot_be_are_refused(change: dict[str, Any], message: str) -> None:
    given = output(((10, 10, 30, 30), 0, 0.9))["instances"]
    judge = InstanceEvaluator(class_names=NAMES)
    with pytest.raises(EvaluationError, match=f"1.jpg: {message}"):
        judge.process([sample([])], [{"instances": dataclasses.replace(given, **change)}])
    judge.process([sample([])], [{"instances": given}])
    with pytest.raises(EvaluationError, match="image_id 1 came before"):
        judge.process([sample([])], [{"instances": given}])


NAMES_LVIS = ("ant", "bee", "cat")
SQUARE_LVIS = [[0, 0, 10, 0, 10, 10, 0, 10]]


def evaluator(**options: Any) -> LVISEvaluator:
    return LVISEvaluator(
        **{"class_names": NAMES_LVIS, "frequencies": "rcf", "iou_types": ("segm",), **options}
    )


def sample_lvis(classes: list[int], **lists: list[int]) -> dict[str, Any]:
    """An image with one square of each class."""
    return {
        "file_name": "1.jpg",
        "image_id": 1,
        "height": 20,
        "width": 20,
        "annotations": [{"category_id": c, "segmentation": SQUARE_LVIS} for c in classes],
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
    assert precision_at_half(sample_lvis([0]), *wrong)["AP-ant"] == pytest.approx(50)
    # Ants are not labeled exhaustively: the wrong one may be right, and is left out.
    assert precision_at_half(sample_lvis([0], not_exhaustive_category_ids=[0]), *wrong)[
        "AP-ant"
    ] == pytest.approx(100)


def test_a_class_known_to_be_absent_makes_detections_false() -> None:
    judge = evaluator()
    second = {**sample_lvis([1]), "image_id": 2}
    for negative, expected in (([1], 50), ([], 100)):
        judge.reset()
        first = sample_lvis([0], neg_category_ids=negative)
        judge.process([first, second], [found((0, 1, 0.9)), found((0, 1, 0.5))])
        # bee: one object, found; the detection in the first image is false if bees are known to be absent
        assert judge.evaluate()["segm"]["AP-bee"] == pytest.approx(expected)


def test_only_the_300_best_detections_of_an_image_count() -> None:
    ahead = [(10, 2, 0.9)] * 299
    assert precision_at_half(sample_lvis([0]), *ahead, (0, 0, 0.5))["AP-ant"] == pytest.approx(100)
    assert precision_at_half(sample_lvis([0]), *ahead, (10, 2, 0.8), (0, 0, 0.5))["AP-ant"] == 0


def test_there_are_no_crowds() -> None:
    image = sample_lvis([0])
    image["annotations"][0]["iscrowd"] = 1
    assert precision_at_half(image, (0, 0, 0.5))["AP-ant"] == pytest.approx(100)


def test_means_over_rare_common_and_frequent_classes() -> None:
    got = precision_at_half(sample_lvis([0, 1]), (0, 0, 0.9))
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
    image = sample_lvis([0])
    del image["neg_category_ids"]
    with pytest.raises(EvaluationError, match=r"1\.jpg: the sample has no 'neg_category_ids'"):
        evaluator().process([image], [found()])
    with pytest.raises(EvaluationError, match=r"1\.jpg: neg_category_ids with class index 9"):
        evaluator().process([sample_lvis([0], neg_category_ids=[9])], [found()])
