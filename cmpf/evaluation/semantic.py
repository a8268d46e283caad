# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Semantic segmentation: IoU and accuracy from a confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from cmpf.errors import EvaluationError
from cmpf.evaluation.averages import mean_over, percent_ratio, seen_groups
from cmpf.evaluation.gathering import ImageId, gather_by_image
from cmpf.evaluation.ground_truth import check_size, describe, paired, read_class_labels, required, to_array
from cmpf.evaluation.protocol import Metrics, Results
from cmpf.types import ModelResult, Sample

Ids = npt.NDArray[np.int64]


class SemanticEvaluator:
    """mIoU and its relatives from `outputs["sem_seg"]` (labels (H, W), or scores (K, H, W)).

    Ground truth is the sample's `sem_seg_file_name`. Pixels with the ignore label there count nowhere.
    A predicted ignore label means "no class": wrong, but charged to no class.
    """

    def __init__(
        self,
        *,
        class_names: Sequence[str],
        ignore_label: int,
        seen: Sequence[bool] | None = None,
        label_map: Mapping[int, int] | None = None,
    ) -> None:
        """
        Args:
            class_names: one a class, in the order of the class indices.
            ignore_label: value in the ground-truth files (255, or 65535 in 16-bit ones).
            seen: whether each was a training class; None = not asked.
            label_map: value in the ground-truth files -> class index; None = they hold class indices.
        """
        self._names = tuple(class_names)
        self._groups = seen_groups(seen, len(self._names))
        self._ignore_label = ignore_label
        self._label_map = label_map
        self._confusion: dict[ImageId, tuple[Ids, Ids]] = {}

    def reset(self) -> None:
        """Forgets all images."""
        self._confusion = {}

    def process(self, inputs: Sequence[Sample], outputs: Sequence[ModelResult]) -> None:
        """Adds a batch; see Evaluator."""
        for sample, prediction in paired(inputs, outputs, "sem_seg"):
            image_id = required(sample, "image_id")
            path = required(sample, "sem_seg_file_name")
            truth = read_class_labels(
                path, num_classes=len(self._names), ignore_label=self._ignore_label, label_map=self._label_map
            )
            predicted = self._predicted_labels(sample, prediction)
            check_size(str(path), predicted.shape, truth.shape)
            # Kept sparse: with 847 classes a full matrix of each image would take 6 MB.
            cells = np.bincount((truth * (len(self._names) + 1) + predicted).reshape(-1))
            occupied = np.flatnonzero(cells)
            self._confusion[image_id] = (occupied, cells[occupied])

    def _predicted_labels(self, sample: Sample, prediction: Tensor | npt.NDArray[Any]) -> Ids:
        """(H, W) class indices; K stands for "no class"."""
        count = len(self._names)
        if prediction.ndim == 3:
            if prediction.shape[0] != count:
                raise EvaluationError(
                    f"{describe(sample)}: {prediction.shape[0]} score maps for {count} classes; "
                    "predict with the vocabulary of the dataset"
                )
            prediction = prediction.argmax(0)
        labels = to_array(prediction).astype(np.int64)
        outside = (labels < 0) | (labels >= count)
        wrong = labels[outside & (labels != self._ignore_label)]
        if wrong.size:
            raise EvaluationError(
                f"{describe(sample)}: predicted label {int(wrong[0])}; allowed are 0..{count - 1} "
                f"and {self._ignore_label} for no class"
            )
        return np.where(outside, count, labels)

    def _gathered_confusion(self) -> npt.NDArray[np.float64]:
        """(K, K + 1) pixels by true and predicted class; the last column is "no class"."""
        count = len(self._names)
        total = np.zeros((count + 1) * (count + 1), dtype=np.int64)
        for occupied, pixels in gather_by_image(self._confusion).values():
            total[occupied] += pixels
        return total.reshape(count + 1, count + 1)[:-1].astype(np.float64)

    def evaluate(self) -> Results:
        """{"sem_seg": {mIoU, mIoU_union, fwIoU, mACC, pACC, S_mIoU, U_mIoU, ..., IoU-name, ...}} in percent.

        mIoU averages over classes in the ground truth (Detectron2 since July 2022), mIoU_union over classes
        in the ground truth or the predictions (before). fwIoU weighs IoU with the share of pixels, mACC
        averages the recall of classes, pACC is the share of right pixels. With seen flags, mIoU, mIoU_union
        and mACC are also given for seen (S_) and unseen (U_) classes.
        """
        confusion = self._gathered_confusion()
        right = np.diagonal(confusion)
        true_pixels, predicted_pixels = confusion.sum(axis=1), confusion[:, :-1].sum(axis=0)
        union = true_pixels + predicted_pixels - right
        iou, accuracy = percent_ratio(right, union), percent_ratio(right, true_pixels)
        in_truth, in_either = true_pixels > 0, union > 0
        metrics: Metrics = {}
        for prefix, classes in self._groups:
            metrics[f"{prefix}mIoU"] = mean_over(iou, classes & in_truth)
            metrics[f"{prefix}mIoU_union"] = mean_over(iou, classes & in_either)
            metrics[f"{prefix}mACC"] = mean_over(accuracy, classes & in_truth)
        total = true_pixels.sum()
        share = np.divide(true_pixels, total, out=np.zeros_like(true_pixels), where=total > 0)
        metrics["fwIoU"] = float((share * iou)[in_truth].sum()) if total else float("nan")
        metrics["pACC"] = float(100.0 * right.sum() / total) if total else float("nan")
        metrics.update({f"IoU-{name}": float(value) for name, value in zip(self._names, iou, strict=True)})
        metrics.update(
            {f"ACC-{name}": float(value) for name, value in zip(self._names, accuracy, strict=True)}
        )
        return {"sem_seg": metrics}
