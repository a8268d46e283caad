# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Evaluates predicted label maps (mIoU) and panoptic PNGs (PQ)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from cmpf.common.files import is_file
from cmpf.data.datasets.issues import Issues
from cmpf.data.datasets.readers.folders import find_images
from cmpf.data.vocabulary import Vocabulary
from cmpf.data.vocabulary_file import read_vocabulary_text
from cmpf.errors import EvaluationError
from cmpf.evaluation import Results
from cmpf.evaluation.evaluator import check_size, seen_groups
from cmpf.evaluation.panoptic import PanopticTally, SegmentMatches, match_segments, panoptic_groups
from cmpf.evaluation.prediction_files.json_files import (
    Categories,
    first_values,
    get_entries,
    get_field,
    index_by,
    read_categories,
    to_int,
    unique_names,
)
from cmpf.evaluation.semantic import Confusion, confusion_cells, predicted_indices, semantic_metrics
from cmpf.formats.coco_json import read_json
from cmpf.formats.label_map import LabelReader, read_labels, read_panoptic_ids
from cmpf.types import SegmentInfo

TRUTH = "ground truth"
SUFFIXES = (".png", ".tif", ".tiff", ".bmp")  # lossless formats; other files are ignored


def score_semantic(
    *, gt_dir: Path, pred_dir: Path, names: Sequence[str], ignore_label: int, progress: bool = True
) -> Results:
    """Returns {"sem_seg": {mIoU, mIoU_union, fwIoU, mACC, pACC, IoU-name, ...}} in percent; see semantic_metrics.

    mIoU, fwIoU, mACC and pACC equal those of Detectron2's SemSegEvaluator. Images are read one at a time, so memory
    use does not depend on their number.

    Args:
        gt_dir, pred_dir: folders of 8- or 16-bit label maps, paired by their path without suffix.
        names: (K,) class names.
        ignore_label: such pixels of the ground truth are not evaluated; predicted ones are wrong, but no false
            positive of any class.
        progress: show a progress bar.
    Raises:
        EvaluationError: files are missing, damaged or do not match; names the file.
    """
    truths, predictions = label_files(gt_dir), label_files(pred_dir)
    _check_pairs(truths, predictions, gt_dir, pred_dir)
    count = len(names)
    total = Confusion(count)
    read_truth = LabelReader(num_classes=count, ignore_label=ignore_label, no_class=count)
    for stem in tqdm(truths, desc="semantic", unit="image", disable=not progress):
        truth = read_truth(truths[stem]).astype(np.int64)
        path = predictions[stem]
        labels = read_labels(path)
        check_size(str(path), labels.shape, truth.shape)
        predicted = predicted_indices(labels, num_classes=count, ignore_label=ignore_label, where=str(path))
        total.add(confusion_cells(truth, predicted, count))
    return {"sem_seg": semantic_metrics(total.matrix, unique_names(names), seen_groups(None, count))}


def label_files(folder: Path) -> dict[str, Path]:
    """Label maps in a folder and its subfolders, without hidden ones: relative path without suffix -> path, sorted.

    Raises:
        EvaluationError: the folder is missing or empty, or two files differ only in their suffix.
    """
    if not folder.is_dir():
        raise EvaluationError(f"{folder}: no such folder")
    issues = Issues()
    label_maps = find_images(folder, suffix="", issues=issues, extensions=SUFFIXES)
    if not label_maps:
        raise EvaluationError(f"{folder}: no label map ({', '.join(SUFFIXES)}) in it")
    if issues.found:
        raise EvaluationError(f"{issues.found[0]}: two label maps of one image; keep one")
    return label_maps


def _check_pairs(truths: dict[str, Path], predictions: dict[str, Path], gt_dir: Path, pred_dir: Path) -> None:
    missing = [path for stem, path in truths.items() if stem not in predictions]
    if missing:
        raise EvaluationError(f"{pred_dir}: no prediction for {first_values(missing)}")
    unknown = [path for stem, path in predictions.items() if stem not in truths]
    if unknown:
        raise EvaluationError(f"{gt_dir}: no ground truth for {first_values(unknown)}")


def class_names(path: Path | None, num_classes: int) -> tuple[str, ...]:
    """Reads the class names for the report.

    Args:
        path: file with one name per line, or a vocabulary file (`id:name,synonym`); None = use the class indices.
    Raises:
        EvaluationError: the number of names is not num_classes.
        VocabularyError: the file cannot be read.
    """
    if path is None:
        return tuple(str(index) for index in range(num_classes))
    text = read_vocabulary_text(path)
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if lines and all(line.partition(":")[0].isdecimal() for line in lines):
        lines = list(Vocabulary.from_text(text, source=str(path)).names)
    if len(lines) != num_classes:
        raise EvaluationError(
            f"{path}: {len(lines)} names for --num-classes {num_classes}; give one per class"
        )
    return tuple(lines)


def score_panoptic(
    *, gt_json: Path, gt_dir: Path, pred_json: Path, pred_dir: Path, progress: bool = True
) -> Results:
    """Returns {"panoptic": {PQ, SQ, RQ, PQ_th, ..., PQ-name, ...}} in percent, equal to panopticapi's pq_compute.

    Images are read one at a time, so memory use does not depend on their number.

    Args:
        gt_json, pred_json: COCO panoptic JSON; the prediction needs `annotations` only.
        gt_dir, pred_dir: folders of the PNGs.
        progress: show a progress bar.
    Raises:
        EvaluationError: files are missing, damaged or do not match; names the file.
    """
    content = read_json(gt_json)
    categories = read_categories(content, gt_json)
    is_thing = [get_field(e, "isthing", path=gt_json, what="category") == 1 for e in categories.entries]
    truth = _annotations(content, gt_json)
    predictions = _annotations(read_json(pred_json), pred_json)
    _check_images(truth, predictions, gt_json, pred_json)
    tally = PanopticTally(len(categories.names))
    for image_id in tqdm(truth, desc="panoptic", unit="image", disable=not progress):
        true_side = _Side(TRUTH, truth[image_id], gt_dir, gt_json)
        tally.add(
            _matches(true_side, _Side("prediction", predictions[image_id], pred_dir, pred_json), categories)
        )
    groups = panoptic_groups(is_thing, None, len(categories.names))
    return {"panoptic": tally.metrics(categories.names, groups)}


class _Side:
    """Ground truth or prediction of one image; as in panopticapi, true segments need iscrowd and area."""

    def __init__(self, role: str, annotation: dict[str, Any], folder: Path, json_file: Path) -> None:
        self.role, self.json_file = role, json_file
        self._annotation = annotation
        self.png = folder / str(get_field(annotation, "file_name", path=json_file, what="annotation"))
        if not is_file(self.png):
            raise EvaluationError(f"{self.png}: no such {role} PNG; {json_file} names it")

    def segments(self, categories: Categories) -> Iterator[SegmentInfo]:
        """Yields the segments with class indices."""
        image = f"of image {self._annotation['image_id']}"
        for entry in get_entries(self._annotation, "segments_info", self.json_file):
            segment_id = get_field(entry, "id", path=self.json_file, what=f"segment {image}")
            what = f"segment {segment_id} {image}"
            if self.role == TRUTH:
                for key in ("iscrowd", "area"):
                    get_field(entry, key, path=self.json_file, what=what)
            segment: SegmentInfo = {
                "id": to_int(segment_id, f"{self.json_file}: segment {image} has id"),
                "category_id": categories.index(
                    get_field(entry, "category_id", path=self.json_file, what=what),
                    path=self.json_file,
                    what=what,
                ),
                "iscrowd": to_int(
                    entry.get("iscrowd", 0), f"{self.json_file}: {what} has iscrowd", maximum=1
                ),
            }
            if "area" in entry:
                segment["area"] = to_int(entry["area"], f"{self.json_file}: {what} has area")
            yield segment


def _annotations(content: Any, path: Path) -> dict[Any, dict[str, Any]]:
    return index_by(get_entries(content, "annotations", path), "image_id", path=path, what="annotation")


def _check_images(truth: Iterable[Any], predictions: Iterable[Any], gt_json: Path, pred_json: Path) -> None:
    true_ids, predicted_ids = dict.fromkeys(truth), dict.fromkeys(predictions)
    if not true_ids:
        raise EvaluationError(f"{gt_json}: no image in it")
    missing = [i for i in true_ids if i not in predicted_ids]
    if missing:
        raise EvaluationError(
            f"{pred_json}: no prediction for image_id {first_values(missing)}, which {gt_json} lists"
        )
    unknown = [i for i in predicted_ids if i not in true_ids]
    if unknown:
        raise EvaluationError(f"{pred_json}: image_id {first_values(unknown)} is not in {gt_json}")


def _matches(truth: _Side, prediction: _Side, categories: Categories) -> SegmentMatches:
    true_segments, segments = list(truth.segments(categories)), list(prediction.segments(categories))
    true_ids, ids = (read_panoptic_ids(side.png).astype(np.int64) for side in (truth, prediction))
    check_size(str(prediction.png), ids.shape, true_ids.shape)
    try:
        return match_segments(true_ids, true_segments, ids, segments)
    except EvaluationError as error:
        side = truth if str(error).startswith(truth.role) else prediction
        raise EvaluationError(f"{side.png} and {side.json_file}: {error}") from error
