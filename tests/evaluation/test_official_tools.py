# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Damaged result files: what pycocotools and panopticapi refuse is refused here, what is scored scores the same."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.evaluation_data import score_with_pycocotools, write_ids

from benchmarks.trust.fuzz import coco_trees, mutated_tree
from cmpf.errors import CMPFError
from cmpf.evaluation.prediction_files.instances import score_instances
from cmpf.evaluation.prediction_files.maps import score_panoptic

TRIALS = 300


def mutated(truth: Any, results: Any, random: np.random.Generator, folder: Path) -> tuple[Any, Any]:
    """One of the two with something odd in it; both are written to gt.json and pred.json."""
    if random.random() < 0.5:
        truth = mutated_tree(truth, random)
    else:
        results = mutated_tree(results, random)
    for name, content in (("gt.json", truth), ("pred.json", results)):
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return truth, results


def test_instances_are_scored_as_by_pycocotools_or_refused(tmp_path: Path) -> None:
    """It is asked only about files that were scored here: some others end its process."""
    scored = 0
    for seed in range(TRIALS):
        random = np.random.default_rng(seed)
        truth, _, results = coco_trees(random)
        truth, results = mutated(truth, results, random, tmp_path)
        try:
            arguments: Any = {"gt_json": tmp_path / "gt.json", "pred_json": tmp_path / "pred.json"}
            found = score_instances(**arguments, iou_type="segm", lvis=False)["segm"]["AP"]
        except CMPFError:
            continue
        scored += 1
        # No result at all is 0 here; pycocotools reads no empty list. It sorts category ids, which must be of one kind.
        if not results or len({type(category["id"]) for category in truth["categories"]}) > 1:
            continue
        wanted = score_with_pycocotools(tmp_path)["AP"]
        assert found == pytest.approx(math.nan if wanted == -100 else wanted, nan_ok=True), seed
    assert 20 < scored < TRIALS / 2


def of_panopticapi(folder: Path, truth: Any, found: Any) -> float:
    from panopticapi import evaluation

    categories = {category["id"]: category for category in truth["categories"]}
    of_image = {annotation["image_id"]: annotation for annotation in found["annotations"]}
    pairs = [(annotation, of_image[annotation["image_id"]]) for annotation in truth["annotations"]]
    with contextlib.redirect_stdout(io.StringIO()):
        counted = evaluation.pq_compute_single_core(0, pairs, str(folder), str(folder), categories)
    average, _ = counted.pq_average(categories, isthing=None)
    return 100 * float(average["pq"]) if average["n"] else math.nan


def test_panoptic_files_are_scored_as_by_panopticapi_or_refused(tmp_path: Path) -> None:
    official = find_spec("panopticapi") is not None  # not on PyPI; without it: no error but our own
    ids = np.zeros((20, 30), np.int64)
    ids[4:12, 5:20], ids[12:] = 1, 300
    write_ids(tmp_path / "a.png", ids)
    write_ids(tmp_path / "b.png", np.roll(ids, 2, axis=1))
    areas = {1: 120, 300: 240}
    scored = 0
    for seed in range(TRIALS):
        random = np.random.default_rng(seed)
        _, truth, _ = coco_trees(random)
        segments = [
            {"id": name, "category_id": category, "iscrowd": 0, "area": areas[name]}
            for name, category in ((1, 3), (300, 9))
        ]
        truth["annotations"][0]["segments_info"] = segments
        found = {
            "annotations": [{"image_id": 1, "file_name": "b.png", "segments_info": copy.deepcopy(segments)}]
        }
        truth, found = mutated(truth, found, random, tmp_path)
        try:
            metrics = score_panoptic(
                gt_json=tmp_path / "gt.json", gt_dir=tmp_path, pred_json=tmp_path / "pred.json", pred_dir=tmp_path,
                progress=False,
            )["panoptic"]  # fmt: skip
        except CMPFError:
            continue
        scored += 1
        if official:
            assert metrics["PQ"] == pytest.approx(of_panopticapi(tmp_path, truth, found), nan_ok=True), seed
    assert 20 < scored < TRIALS / 2
