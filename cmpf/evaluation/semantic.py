# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Semantic segmentation: IoU and accuracy from a confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from cmpf.errors import EvaluationError
from cmpf.evaluation.averages import seen_groups
from cmpf.evaluation.confusion import (
    Cells,
    Confusion,
    Ids,
    confusion_cells,
    predicted_indices,
    semantic_metrics,
)
from cmpf.evaluation.gathering import ImageId, gather_by_image
from cmpf.evaluation.ground_truth import check_size, describe, paired, required, to_array
from cmpf.evaluation.protocol import Results
from cmpf.formats.label_map import LabelReader
from cmpf.types import ModelResult, Sample


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
        class_of_id: Mapping[int, int] | None = None,
    ) -> None:
        """
        Args:
            class_names: one a class, in the order of the class indices.
            ignore_label: value in the ground-truth files (255, or 65535 in 16-bit ones).
            seen: whether each was a training class; None = not asked.
            class_of_id: value in the ground-truth files -> class index; None = they hold class indices.
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
        self._cells: dict[ImageId, Cells] = {}

    def reset(self) -> None:
        """Forgets all images."""
        self._cells = {}

    def process(self, inputs: Sequence[Sample], outputs: Sequence[ModelResult]) -> None:
        """Adds a batch; see Evaluator."""
        count = len(self._names)
        for sample, prediction in paired(inputs, outputs, "sem_seg"):
            image_id = required(sample, "image_id")
            path = required(sample, "sem_seg_file_name")
            truth = self._read_labels(path).astype(np.int64)
            labels = to_array(best_labels(sample, prediction, count))
            predicted: Ids = predicted_indices(
                labels, num_classes=count, ignore_label=self._ignore_label, where=describe(sample)
            )
            check_size(str(path), predicted.shape, truth.shape)
            self._cells[image_id] = confusion_cells(truth, predicted, count)

    def evaluate(self) -> Results:
        """{"sem_seg": {mIoU, mIoU_union, fwIoU, mACC, pACC, S_mIoU, U_mIoU, ..., IoU-name, ...}} in percent.

        See semantic_metrics. With seen flags, mIoU, mIoU_union and mACC are also given for seen (S_) and
        unseen (U_) classes.
        """
        total = Confusion(len(self._names))
        for cells in gather_by_image(self._cells).values():
            total.add(cells)
        return {"sem_seg": semantic_metrics(total.matrix, self._names, self._groups)}


def best_labels(
    sample: Sample, prediction: Tensor | npt.NDArray[Any], num_classes: int
) -> Tensor | npt.NDArray[Any]:
    """(H, W) labels of a semantic output, which may be scores (K, H, W).

    Raises:
        EvaluationError: another number of score maps.
    """
    if prediction.ndim != 3:
        return prediction
    if prediction.shape[0] != num_classes:
        raise EvaluationError(
            f"{describe(sample)}: {prediction.shape[0]} score maps for {num_classes} classes; "
            "predict with the vocabulary of the dataset"
        )
    return prediction.argmax(0)
