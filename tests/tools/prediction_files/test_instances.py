# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import contextlib
import copy
import io
import json
from pathlib import Path
from typing import Any

import pytest
from helpers.lvis_reference import naive_lvis, random_lvis
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cmpf.errors import DatasetError, EvaluationError
from tools.prediction_files.instances import score_instances

COCO_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def score(
    folder: Path, truth: Any, results: Any, *, lvis: bool = False, iou_type: str = "segm"
) -> dict[str, float]:
    (folder / "gt.json").write_text(json.dumps(truth))
    (folder / "pred.json").write_text(json.dumps(results))
    scored = score_instances(
        gt_json=folder / "gt.json", pred_json=folder / "pred.json", iou_type=iou_type, lvis=lvis
    )
    assert list(scored) == [iou_type]
    return scored[iou_type]


def pycocotools(folder: Path, iou_type: str) -> dict[str, float]:
    """What the official tool says of the files that `score` wrote."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(folder / "gt.json")
        evaluation = COCOeval(truth, truth.loadRes(str(folder / "pred.json")), iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {name: 100 * value for name, value in zip(COCO_METRICS, evaluation.stats, strict=False)}


def without(entries: list[dict[str, Any]], *keys: str) -> list[dict[str, Any]]:
    return [{key: value for key, value in entry.items() if key not in keys} for entry in entries]


@pytest.mark.parametrize("iou_type", ["segm", "bbox"])
@pytest.mark.parametrize("geometry", ["segmentation", "bbox", "both"])
def test_coco_numbers_are_those_of_pycocotools(tmp_path: Path, iou_type: str, geometry: str) -> None:
    truth, results = random_lvis(0)
    for place, annotation in enumerate(truth["annotations"]):
        annotation["iscrowd"] = int(place % 7 == 0)
    dropped = {"segmentation": ("bbox", "area"), "bbox": ("segmentation", "area"), "both": ("area",)}[
        geometry
    ]
    if (iou_type, geometry) == ("segm", "bbox"):
        with pytest.raises(EvaluationError, match=r"pred\.json: result 0 without 'segmentation'"):
            score(tmp_path, truth, without(results, *dropped))
        return
    if geometry == "both":  # boxes of another size than the masks: areas are theirs, as in the official tool
        results = [{**r, "bbox": [*r["bbox"][:2], r["bbox"][2] * 1.2, r["bbox"][3]]} for r in results]
    got = score(tmp_path, truth, without(results, *dropped), iou_type=iou_type)
    expected = pycocotools(tmp_path, iou_type)
    assert {name: got[name] for name in COCO_METRICS} == pytest.approx(expected, abs=1e-9)
    assert 5 < got["AP"] < 95
    assert set(got) == {*COCO_METRICS, *(f"AP-class {i}" for i in range(6))}


@pytest.mark.parametrize("iou_type", ["segm", "bbox"])
def test_lvis_numbers_are_those_of_the_rules_read_aloud(tmp_path: Path, iou_type: str) -> None:
    truth, results = random_lvis(3)
    dropped = "bbox" if iou_type == "segm" else "segmentation"
    got = score(tmp_path, truth, without(results, dropped, "area"), lvis=True, iou_type=iou_type)
    expected = naive_lvis(truth, results, iou_type)
    assert {name: got[name] for name in expected} == pytest.approx(expected, abs=1e-9)


def test_lvis_takes_300_detections_of_an_image(tmp_path: Path) -> None:
    truth, results = random_lvis(4, images=2, detections=200)
    assert len(results) > 600
    got = score(tmp_path, truth, without(results, "bbox", "area"), lvis=True)
    expected = naive_lvis(truth, results, "segm")
    assert {name: got[name] for name in expected} == pytest.approx(expected, abs=1e-9, nan_ok=True)


def test_no_result_at_all_scores_zero(tmp_path: Path) -> None:
    assert score(tmp_path, random_lvis(0)[0], [])["AP"] == 0


def spoilt(place: str, **changes: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Files with one entry changed; None removes a key."""
    truth, results = copy.deepcopy(random_lvis(0))
    entry = results[2] if place == "results" else truth[place][1]
    for key, value in changes.items():
        entry.pop(key) if value is None else entry.update({key: value})
    return truth, results


SMALL = {"size": [9, 9], "counts": [81]}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            spoilt("results", image_id=99),
            r"pred\.json: result 2 has image_id 99, which .*gt\.json does not list",
        ),
        (
            spoilt("results", category_id=4),
            r"pred\.json: result 2 has category_id 4, which .*gt\.json does not",
        ),
        (spoilt("results", score=None), r"pred\.json: result 2 without 'score'"),
        (spoilt("results", score=float("nan")), r"pred\.json: result 2 has score nan"),
        (
            spoilt("results", segmentation=SMALL),
            r"pred\.json: mask of result 2: run lengths of size \[9, 9\]",
        ),
        (
            spoilt("results", segmentation=[[1, 2]]),
            r"pred\.json: mask of result 2: a polygon needs three points",
        ),
        (spoilt("results", bbox=[1, 2]), r"pred\.json: result 2 has bbox \[1, 2\]"),
        (
            spoilt("annotations", image_id=99),
            r"gt\.json: annotation 2 has image_id 99, which it does not list",
        ),
        (spoilt("annotations", category_id=4), r"gt\.json: annotation 2 has category_id 4"),
        (spoilt("annotations", id=1), r"gt\.json: annotation listed twice: id 1"),
        (
            spoilt("annotations", segmentation=SMALL),
            r"gt\.json: mask of annotation 2: run lengths of size \[9, 9\]",
        ),
        (spoilt("images", id=1), r"gt\.json: image listed twice: id 1"),
        (spoilt("images", height=None), r"gt\.json: image 2 without 'height'"),
        (spoilt("images", neg_category_ids=None), r"gt\.json: image 2 without 'neg_category_ids'"),
        (spoilt("images", not_exhaustive_category_ids=[5]), r"gt\.json: image 2 has category_id 5"),
        (spoilt("categories", id=3), r"gt\.json: category listed twice: id 3"),
        (spoilt("categories", frequency="x"), r"gt\.json: category with frequency 'x'; LVIS has r, c and f"),
    ],
)
def test_issues_are_named_with_file_and_entry(tmp_path: Path, files: tuple[Any, Any], message: str) -> None:
    with pytest.raises((DatasetError, EvaluationError), match=message):
        score(tmp_path, *files, lvis=True)


def test_results_must_be_a_list_of_objects(tmp_path: Path) -> None:
    for results in ({"annotations": []}, [1]):
        with pytest.raises(EvaluationError, match=r"pred\.json: no COCO results; expected a list of objects"):
            score(tmp_path, random_lvis(0)[0], results)
