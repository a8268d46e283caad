# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Confusion of true and predicted classes, pixel by pixel, and the metrics that follow from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cmpf.errors import EvaluationError
from cmpf.evaluation.averages import mean_over, percent_ratio
from cmpf.evaluation.protocol import Metrics

Ids = npt.NDArray[np.int64]
Cells = tuple[Ids, Ids]  # places in the flat matrix that are not zero, and their pixels


def predicted_indices(labels: npt.NDArray[Any], *, num_classes: int, ignore_label: int, where: str) -> Ids:
    """Class indices (H, W) of predicted labels; `num_classes` stands for "no class".

    Args:
        labels: (H, W) class indices; other values than 0..num_classes - 1 and the ignore label are refused.
        where: opens the error message; names the file.
    Raises:
        EvaluationError: an impossible label.
    """
    indices: Ids = labels.astype(np.int64)
    outside = (indices < 0) | (indices >= num_classes)
    wrong = indices[outside & (indices != ignore_label)]
    if wrong.size:
        raise EvaluationError(
            f"{where}: predicted label {int(wrong[0])}; allowed are 0..{num_classes - 1} "
            f"and {ignore_label} for no class"
        )
    return np.where(outside, num_classes, indices)


def confusion_cells(truth: Ids, predicted: Ids, num_classes: int) -> Cells:
    """Pixels by true and predicted class of one image, kept sparse: 847 classes would take 6 MB an image.

    Args:
        truth, predicted: (H, W) class indices; `num_classes` = ignored or "no class".
    """
    cells = np.bincount((truth * (num_classes + 1) + predicted).reshape(-1))
    occupied = np.flatnonzero(cells)
    return occupied, cells[occupied]


class Confusion:
    """The sum over images."""

    def __init__(self, num_classes: int) -> None:
        self._side = num_classes + 1
        self._total = np.zeros(self._side * self._side, dtype=np.int64)

    def add(self, cells: Cells) -> None:
        """Adds an image."""
        occupied, pixels = cells
        self._total[occupied] += pixels

    @property
    def matrix(self) -> npt.NDArray[np.float64]:
        """(K, K + 1) pixels by true and predicted class; the last column is "no class"."""
        return self._total.reshape(self._side, self._side)[:-1].astype(np.float64)


def semantic_metrics(
    confusion: npt.NDArray[np.float64],
    class_names: Sequence[str],
    groups: Sequence[tuple[str, npt.NDArray[np.bool_]]],
) -> Metrics:
    """mIoU, mIoU_union, mACC for each group; fwIoU, pACC, and IoU-name, ACC-name for each class, in percent.

    mIoU averages over classes in the ground truth (Detectron2 since July 2022), mIoU_union over classes in the
    ground truth or the predictions (before). fwIoU weighs IoU with the share of pixels, mACC averages the
    recall of classes, pACC is the share of right pixels. A pixel predicted as "no class" is wrong, but is
    charged to no class.

    Args:
        confusion: see Confusion.matrix.
        groups: prefix of the metrics' names and the classes (K,) of each group.
    """
    right = np.diagonal(confusion)
    true_pixels, predicted_pixels = confusion.sum(axis=1), confusion[:, :-1].sum(axis=0)
    union = true_pixels + predicted_pixels - right
    iou, accuracy = percent_ratio(right, union), percent_ratio(right, true_pixels)
    in_truth, in_either = true_pixels > 0, union > 0
    metrics: Metrics = {}
    for prefix, classes in groups:
        metrics[f"{prefix}mIoU"] = mean_over(iou, classes & in_truth)
        metrics[f"{prefix}mIoU_union"] = mean_over(iou, classes & in_either)
        metrics[f"{prefix}mACC"] = mean_over(accuracy, classes & in_truth)
    total = true_pixels.sum()
    share = np.divide(true_pixels, total, out=np.zeros_like(true_pixels), where=total > 0)
    metrics["fwIoU"] = float((share * iou)[in_truth].sum()) if total else float("nan")
    metrics["pACC"] = float(100.0 * right.sum() / total) if total else float("nan")
    for metric, values in (("IoU", iou), ("ACC", accuracy)):
        metrics.update({f"{metric}-{n}": float(v) for n, v in zip(class_names, values, strict=True)})
    return metrics
