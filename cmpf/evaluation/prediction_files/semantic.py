# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""mIoU of predicted label maps."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from cmpf.data.vocabulary import Vocabulary
from cmpf.data.vocabulary_file import read_vocabulary_text
from cmpf.errors import EvaluationError
from cmpf.evaluation import Results
from cmpf.evaluation.evaluator import check_size, seen_groups
from cmpf.evaluation.prediction_files.json_files import some, unique_names
from cmpf.evaluation.semantic import Confusion, confusion_cells, predicted_indices, semantic_metrics
from cmpf.formats.label_map import LabelReader, read_labels

SUFFIXES = (".png", ".tif", ".tiff", ".bmp")  # lossless ones; anything else in the folders is left alone


def score_semantic(
    *, gt_dir: Path, pred_dir: Path, names: Sequence[str], ignore_label: int, progress: bool = True
) -> Results:
    """{"sem_seg": {mIoU, mIoU_union, fwIoU, mACC, pACC, IoU-name, ...}} in percent; see semantic_metrics.

    mIoU, fwIoU, mACC and pACC are those of Detectron2's SemSegEvaluator. Images are read one after the other,
    so memory does not grow with their number.

    Args:
        gt_dir, pred_dir: folders of label maps, 8 or 16 bits, paired by their path without suffix.
        names: one a class.
        ignore_label: true pixels with it do not count; predicted ones are wrong, but charged to no class.
    Raises:
        EvaluationError: files are missing, damaged or do not fit together; names the file.
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
        found = predicted_indices(labels, num_classes=count, ignore_label=ignore_label, where=str(path))
        total.add(confusion_cells(truth, found, count))
    return {"sem_seg": semantic_metrics(total.matrix, unique_names(names), seen_groups(None, count))}


def label_files(folder: Path) -> dict[str, Path]:
    """Label maps anywhere below a folder, by their relative path without suffix, in order.

    Raises:
        EvaluationError: no such folder, no image in it, or two that differ in their suffix only.
    """
    if not folder.is_dir():
        raise EvaluationError(f"{folder}: no such folder")
    found: dict[str, Path] = {}
    for parent, _, files in os.walk(folder, followlinks=True):
        for name in files:
            path = Path(parent, name)
            if path.suffix.lower() not in SUFFIXES or name.startswith("."):
                continue
            stem = path.relative_to(folder).with_suffix("").as_posix()
            if stem in found:
                raise EvaluationError(f"{path} and {found[stem]}: two label maps of one image; keep one")
            found[stem] = path
    if not found:
        raise EvaluationError(f"{folder}: no label map ({', '.join(SUFFIXES)}) in it")
    return dict(sorted(found.items()))


def _check_pairs(truths: dict[str, Path], predictions: dict[str, Path], gt_dir: Path, pred_dir: Path) -> None:
    missing = [path for stem, path in truths.items() if stem not in predictions]
    if missing:
        raise EvaluationError(f"{pred_dir}: no prediction for {some(missing)}")
    unknown = [path for stem, path in predictions.items() if stem not in truths]
    if unknown:
        raise EvaluationError(f"{gt_dir}: no ground truth for {some(unknown)}")


def class_names(path: Path | None, num_classes: int) -> tuple[str, ...]:
    """Names of the classes for the report.

    Args:
        path: one name a line, or a vocabulary file (`id:name,synonym`); None = the class indices.
    Raises:
        EvaluationError: another number of names.
        VocabularyError: the file cannot be read.
    """
    if path is None:
        return tuple(str(index) for index in range(num_classes))
    text = read_vocabulary_text(path)
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if lines and all(line.partition(":")[0].isdecimal() for line in lines):
        lines = list(Vocabulary.from_text(text, source=str(path)).names)
    if len(lines) != num_classes:
        raise EvaluationError(f"{path}: {len(lines)} names for --num-classes {num_classes}; give one a class")
    return tuple(lines)
