# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Panoptic quality of predictions in COCO's panoptic format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from cmpf.errors import EvaluationError
from cmpf.evaluation import Results
from cmpf.evaluation.evaluator import check_size
from cmpf.evaluation.panoptic import PanopticTally, SegmentMatches, match_segments, panoptic_groups
from cmpf.evaluation.prediction_files.json_files import (
    Categories,
    by_key,
    field,
    listed,
    read_categories,
    some,
    whole,
)
from cmpf.formats.coco_json import read_json
from cmpf.formats.label_map import read_panoptic_ids
from cmpf.types import SegmentInfo


def score_panoptic(
    *, gt_json: Path, gt_dir: Path, pred_json: Path, pred_dir: Path, progress: bool = True
) -> Results:
    """{"panoptic": {PQ, SQ, RQ, PQ_th, ..., PQ-name, ...}} in percent, as panopticapi's pq_compute.

    Images are read one after the other, so memory does not grow with their number.

    Args:
        gt_json, pred_json: COCO panoptic JSON; the prediction needs `annotations` only.
        gt_dir, pred_dir: folders of the PNGs.
    Raises:
        EvaluationError: files are missing, damaged or do not fit together; names the file.
    """
    content = read_json(gt_json)
    categories = read_categories(content, gt_json)
    is_thing = [field(e, "isthing", path=gt_json, what="category") == 1 for e in categories.entries]
    truth = _annotations(content, gt_json)
    predictions = _annotations(read_json(pred_json), pred_json)
    _check_images(truth, predictions, gt_json, pred_json)
    tally = PanopticTally(len(categories.names))
    for image_id in tqdm(truth, desc="panoptic", unit="image", disable=not progress):
        true_side = _Side("ground truth", truth[image_id], gt_dir, gt_json)
        tally.add(
            _matches(true_side, _Side("prediction", predictions[image_id], pred_dir, pred_json), categories)
        )
    groups = panoptic_groups(is_thing, None, len(categories.names))
    return {"panoptic": tally.metrics(categories.names, groups)}


class _Side:
    """One image as ground truth or prediction."""

    def __init__(self, role: str, annotation: dict[str, Any], folder: Path, json_file: Path) -> None:
        self.role, self.json_file = role, json_file
        self._annotation = annotation
        self.png = folder / str(field(annotation, "file_name", path=json_file, what="annotation"))
        if not self.png.is_file():
            raise EvaluationError(f"{self.png}: no such {role} PNG; {json_file} names it")

    def segments(self, categories: Categories) -> Iterator[SegmentInfo]:
        """Segments with class indices."""
        image = f"of image {self._annotation['image_id']}"
        for entry in listed(self._annotation, "segments_info", self.json_file):
            number = field(entry, "id", path=self.json_file, what=f"segment {image}")
            what = f"segment {number} {image}"
            segment: SegmentInfo = {
                "id": whole(number, f"{self.json_file}: segment {image} has id"),
                "category_id": categories.index(
                    field(entry, "category_id", path=self.json_file, what=what),
                    path=self.json_file,
                    what=what,
                ),
                "iscrowd": whole(entry.get("iscrowd", 0), f"{self.json_file}: {what} has iscrowd", most=1),
            }
            if "area" in entry:
                segment["area"] = whole(entry["area"], f"{self.json_file}: {what} has area")
            yield segment


def _annotations(content: Any, path: Path) -> dict[Any, dict[str, Any]]:
    return by_key(listed(content, "annotations", path), "image_id", path=path, what="annotation")


def _check_images(truth: Iterable[Any], predictions: Iterable[Any], gt_json: Path, pred_json: Path) -> None:
    true_ids, found_ids = dict.fromkeys(truth), dict.fromkeys(predictions)
    if not true_ids:
        raise EvaluationError(f"{gt_json}: no image in it")
    missing = [i for i in true_ids if i not in found_ids]
    if missing:
        raise EvaluationError(
            f"{pred_json}: no prediction for image_id {some(missing)}, which {gt_json} lists"
        )
    unknown = [i for i in found_ids if i not in true_ids]
    if unknown:
        raise EvaluationError(f"{pred_json}: image_id {some(unknown)} is not in {gt_json}")


def _matches(truth: _Side, prediction: _Side, categories: Categories) -> SegmentMatches:
    true_segments, segments = list(truth.segments(categories)), list(prediction.segments(categories))
    true_ids, ids = (read_panoptic_ids(side.png).astype(np.int64) for side in (truth, prediction))
    check_size(str(prediction.png), ids.shape, true_ids.shape)
    try:
        return match_segments(true_ids, true_segments, ids, segments)
    except EvaluationError as error:
        guilty = truth if str(error).startswith(truth.role) else prediction
        raise EvaluationError(f"{guilty.png} and {guilty.json_file}: {error}") from error
