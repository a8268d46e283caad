# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Semantic segmentation metrics: IoU and accuracy from a confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from cmpf.errors import EvaluationError
from cmpf.evaluation.evaluator import (
    ImageId,
    Metrics,
    Results,
    check_new_image,
    check_size,
    describe,
    gather_by_image,
    mean_over,
    paired,
    percent_ratio,
    required,
    seen_groups,
    to_array,
    to_finite,
    to_integers,
)
from cmpf.formats.label_map import LabelReader
from cmpf.types import ModelResult, Sample

Ids = npt.NDArray[np.int64]
Cells = tuple[
    Ids, Ids
]  # indices of the non-zero cells of a flattened confusion matrix, and their pixel counts


class LabelMapEvaluator:
    """Base class of evaluators that read label maps."""

    def __init__(
        self,
        *,
        class_names: Sequence[str],
        ignore_label: int,
        seen: Sequence[bool] | None = None,
        class_of_id: Mapping[int, int] | None = None,
    ) -> None:
        """
        Args:
            class_names: names in the order of the class indices.
            ignore_label: value of unlabeled pixels in the label maps (255, or 65535 in 16-bit maps).
            seen: (K,) whether each class was seen in training; None = no metrics for seen and unseen classes.
            class_of_id: value in the label maps -> class index; None = they hold class indices.
        """
        self._names = tuple(class_names)
        self._groups = seen_groups(seen, len(self._names))
        self._ignore_label = ignore_label
        self._read_labels = LabelReader(
            num_classes=len(self._names),
            ignore_label=ignore_label,
            class_of_id=class_of_id,
            no_class=len(self._names),
        )
        self.reset()

    def reset(self) -> None:
        """Clears all images."""
        self._statistics: dict[ImageId, tuple[Ids, npt.NDArray[Any]]] = {}


class SemanticEvaluator(LabelMapEvaluator):
    """Evaluates mIoU and related metrics from `outputs["sem_seg"]` (labels (H, W), or scores (K, H, W)).

    The ground truth is the sample's `sem_seg_file_name`; pixels with the ignore label are not evaluated. A predicted
    ignore label means "no class": it is wrong, but no false positive of any class.
    """

    def process(self, inputs: Sequence[Sample], outputs: Sequence[ModelResult]) -> None:
        """Adds a batch; see Evaluator."""
        count = len(self._names)
        for sample, prediction in paired(inputs, outputs, "sem_seg"):
            image_id = required(sample, "image_id")
            check_new_image(image_id, self._statistics, describe(sample))
            path = required(sample, "sem_seg_file_name")
            truth = self._read_labels(path).astype(np.int64)
            labels = to_array(best_labels(sample, prediction, count))
            predicted: Ids = predicted_indices(
                labels, num_classes=count, ignore_label=self._ignore_label, where=describe(sample)
            )
            check_size(str(path), predicted.shape, truth.shape)
            self._statistics[image_id] = confusion_cells(truth, predicted, count)

    def evaluate(self) -> Results:
        """Returns {"sem_seg": {mIoU, mIoU_union, fwIoU, mACC, pACC, S_mIoU, U_mIoU, ..., IoU-name, ...}} in percent.

        See semantic_metrics. With seen flags, mIoU, mIoU_union and mACC are also computed for seen (S_) and
        unseen (U_) classes.
        """
        total = Confusion(len(self._names))
        for cells in gather_by_image(self._statistics).values():
            total.add(cells)
        return {"sem_seg": semantic_metrics(total.matrix, self._names, self._groups)}


def best_labels(
    sample: Sample, prediction: Tensor | npt.NDArray[Any], num_classes: int
) -> Tensor | npt.NDArray[Any]:
    """Labels (H, W) of a semantic output: the output itself, or the argmax of scores (K, H, W).

    Raises:
        EvaluationError: the number of score maps is not num_classes, or a pixel's maximum is NaN or infinite.
    """
    if prediction.ndim != 3:
        return prediction
    if prediction.shape[0] != num_classes:
        raise EvaluationError(
            f"{describe(sample)}: {prediction.shape[0]} score maps for {num_classes} classes; "
            "predict with the vocabulary of the dataset"
        )
    best = prediction.max(0)  # NaN if any score of the pixel is NaN, in NumPy and in torch
    to_finite(to_array(best if isinstance(best, np.ndarray) else best.values), f"{describe(sample)}: scores")
    return prediction.argmax(0)


def predicted_indices(labels: npt.NDArray[Any], *, num_classes: int, ignore_label: int, where: str) -> Ids:
    """Class indices (H, W) of predicted labels, with `num_classes` for "no class" (the ignore label).

    Args:
        labels: (H, W) class indices or the ignore label, integers of any dtype.
        where: start of the error message; names the file.
    Raises:
        EvaluationError: an invalid label.
    """
    indices: Ids = to_integers(labels, f"{where}: predicted labels")
    outside = (indices < 0) | (indices >= num_classes)
    wrong = indices[outside & (indices != ignore_label)]
    if wrong.size:
        raise EvaluationError(
            f"{where}: predicted label {int(wrong[0])}; allowed are 0..{num_classes - 1} "
            f"and {ignore_label} for no class"
        )
    return np.where(outside, num_classes, indices)


def confusion_cells(truth: Ids, predicted: Ids, num_classes: int) -> Cells:
    """Sparse confusion matrix of one image; with 847 classes a dense one would take 6 MB.

    Args:
        truth, predicted: (H, W) class indices; `num_classes` = ignored or "no class".
    """
    counts = np.bincount((truth * (num_classes + 1) + predicted).reshape(-1))
    indices = np.flatnonzero(counts)
    return indices, counts[indices]


class Confusion:
    """Confusion matrix summed over images."""

    def __init__(self, num_classes: int) -> None:
        self._side = num_classes + 1
        self._total = np.zeros(self._side * self._side, dtype=np.int64)

    def add(self, cells: Cells) -> None:
        """Adds an image; see confusion_cells."""
        indices, counts = cells
        self._total[indices] += counts

    @property
    def matrix(self) -> npt.NDArray[np.float64]:
        """(K, K + 1) number of pixels by true and predicted class; the last column is "no class"."""
        return self._total.reshape(self._side, self._side)[:-1].astype(np.float64)


def semantic_metrics(
    confusion: npt.NDArray[np.float64],
    class_names: Sequence[str],
    groups: Sequence[tuple[str, npt.NDArray[np.bool_]]],
) -> Metrics:
    """mIoU, mIoU_union and mACC of each group; fwIoU, pACC, and IoU-name and ACC-name of each class, in percent.

    mIoU averages over classes in the ground truth (Detectron2 since July 2022), mIoU_union over classes in the
    ground truth or the predictions (Detectron2 before). fwIoU weights IoU by the share of pixels, mACC averages the
    recall of the classes, pACC is the share of correct pixels. A pixel predicted as "no class" is wrong, but no
    false positive of any class.

    Args:
        confusion: see Confusion.matrix.
        class_names: (K,) names.
        groups: prefix of the metric names and classes (K,) of each group; see seen_groups.
    """
    correct = np.diagonal(confusion)
    true_pixels, predicted_pixels = confusion.sum(axis=1), confusion[:, :-1].sum(axis=0)
    union = true_pixels + predicted_pixels - correct
    iou, accuracy = percent_ratio(correct, union), percent_ratio(correct, true_pixels)
    in_truth, in_either = true_pixels > 0, union > 0
    metrics: Metrics = {}
    for prefix, classes in groups:
        metrics[f"{prefix}mIoU"] = mean_over(iou, classes & in_truth)
        metrics[f"{prefix}mIoU_union"] = mean_over(iou, classes & in_either)
        metrics[f"{prefix}mACC"] = mean_over(accuracy, classes & in_truth)
    total = true_pixels.sum()
    share = np.divide(true_pixels, total, out=np.zeros_like(true_pixels), where=total > 0)
    metrics["fwIoU"] = float((share * iou)[in_truth].sum()) if total else float("nan")
    metrics["pACC"] = float(100.0 * correct.sum() / total) if total else float("nan")
    for metric, values in (("IoU", iou), ("ACC", accuracy)):
        metrics.update({f"{metric}-{n}": float(v) for n, v in zip(class_names, values, strict=True)})
    return metrics
