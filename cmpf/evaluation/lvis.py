# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""LVIS: average precision where each image is labeled for some classes only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cmpf.errors import DatasetError, EvaluationError
from cmpf.evaluation.average_precision import (
    FREQUENCIES,
    IoUType,
    Precision,
    average_precisions,
    coco_precision,
    federated_detections,
)
from cmpf.evaluation.ground_truth import required
from cmpf.evaluation.instance import InstanceEvaluator
from cmpf.evaluation.protocol import Metrics
from cmpf.formats.coco_json import read_coco
from cmpf.types import Sample

NEGATIVE, NOT_EXHAUSTIVE = "neg_category_ids", "not_exhaustive_category_ids"


class LVISEvaluator(InstanceEvaluator):
    """AP, APr, APc, APf (Gupta et al., LVIS, section 3.3) from `outputs["instances"]`.

    Of each image the 300 best detections count, all classes together; of these only the classes that have an
    object in the image or are known to have none. Ground truth is the sample's `annotations`,
    `neg_category_ids` and `not_exhaustive_category_ids`, all with contiguous class indices.
    """

    def __init__(
        self,
        *,
        class_names: Sequence[str],
        frequencies: Sequence[str],
        seen: Sequence[bool] | None = None,
        iou_types: Sequence[IoUType] = ("segm", "bbox"),
    ) -> None:
        """
        Args:
            class_names, seen, iou_types: see InstanceEvaluator.
            frequencies: "r" (rare: in at most 10 training images), "c" (common: at most 100) or "f"
                (frequent) for each class.
        Raises:
            EvaluationError: not one frequency a class, or another letter.
        """
        super().__init__(class_names=class_names, seen=seen, iou_types=iou_types)
        self._frequencies = tuple(frequencies)
        strange = sorted({repr(f) for f in self._frequencies if f not in FREQUENCIES})
        if strange or len(self._frequencies) != len(self._names):
            raise EvaluationError(
                f"{len(self._frequencies)} frequencies for {len(self._names)} classes"
                f"{', unknown ' + ', '.join(strange) if strange else ''}; give r, c or f for each class"
            )

    def _facts(self, sample: Sample) -> dict[str, Any]:
        facts = {key: [int(c) for c in required(sample, key)] for key in (NEGATIVE, NOT_EXHAUSTIVE)}
        for key, categories in facts.items():
            for category in categories:
                self._check_class(sample, key, category)
        return facts

    def _judged(
        self, sample: Sample, scores: npt.NDArray[np.float64], classes: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        present = {annotation["category_id"] for annotation in required(sample, "annotations")}
        return federated_detections(scores, classes, present | set(required(sample, NEGATIVE)))

    def _precision(
        self,
        images: list[dict[str, Any]],
        annotations: list[dict[str, Any]],
        detections: list[dict[str, Any]],
        iou_type: IoUType,
    ) -> Precision:
        return coco_precision(
            images,
            annotations,
            detections,
            num_classes=len(self._names),
            iou_type=iou_type,
            federated=True,
        )

    def _metrics(self, precision: Precision) -> Metrics:
        return average_precisions(precision, self._names, self._seen, self._frequencies)


def read_frequencies(
    path: str | Path, *, num_classes: int, class_of_id: Mapping[int, int] | None = None
) -> tuple[str, ...]:
    """`frequency` of each class from an LVIS JSON file.

    It says in how many training images a class is, so it cannot be counted in the validation images.

    Args:
        class_of_id: category id -> class index; None = classes are in the order of the category ids.
    Returns:
        (K,) letters; "f" for a class that the file lacks, which then has no object either.
    Raises:
        EvaluationError: the file cannot be read, a category has no frequency, or no class.
    """
    try:
        categories = read_coco(path, ["categories"])["categories"]
        frequency_of = {int(category["id"]): str(category["frequency"]) for category in categories}
    except (DatasetError, ValueError, KeyError, TypeError) as error:
        raise EvaluationError(
            f"{path}: no LVIS v1 annotations with a `frequency` in each category "
            f"({type(error).__name__}: {error}); use lvis_v1_val.json as published"
        ) from error
    index_of = class_of_id or {identity: index for index, identity in enumerate(sorted(frequency_of))}
    letters = ["f"] * num_classes
    for identity, letter in frequency_of.items():
        if not 0 <= index_of.get(identity, -1) < num_classes:
            raise EvaluationError(f"{path}: category {identity} is none of the {num_classes} classes")
        letters[index_of[identity]] = letter
    return tuple(letters)
