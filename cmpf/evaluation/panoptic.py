# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Panoptic quality."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cmpf.errors import EvaluationError
from cmpf.evaluation.averages import class_flags, mean_over, percent_ratio, seen_groups
from cmpf.evaluation.gathering import ImageId, gather_by_image
from cmpf.evaluation.ground_truth import check_size, describe, paired, read_panoptic_png, required, to_array
from cmpf.evaluation.matching import SegmentMatches, match_segments
from cmpf.evaluation.protocol import Metrics, Results
from cmpf.types import ModelResult, Sample, SegmentInfo


class PanopticEvaluator:
    """PQ, SQ and RQ by the definition of the COCO panoptic API, from `outputs["panoptic_seg"]`.

    Ground truth is the sample's `pan_seg_file_name` and `segments_info` with contiguous class indices.
    PQ = SQ * RQ for one class; means go over classes with a matched, false or missed segment (SQ of a class
    without a match is 0 there, as in the API), and PQ_th / PQ_st over things and stuff.
    """

    def __init__(
        self, *, class_names: Sequence[str], is_thing: Sequence[bool], seen: Sequence[bool] | None = None
    ) -> None:
        """
        Args:
            class_names: one a class, in the order of the class indices.
            is_thing: whether each is countable.
            seen: whether each was a training class; None = not asked.
        """
        self._names = tuple(class_names)
        things = class_flags("is_thing", is_thing, len(self._names))
        groups = seen_groups(seen, len(self._names))
        self._groups = [(prefix, "", classes) for prefix, classes in groups]
        self._groups[1:1] = [("", "_th", things), ("", "_st", ~things)]
        self._matches: dict[ImageId, SegmentMatches] = {}

    def reset(self) -> None:
        """Forgets all images."""
        self._matches = {}

    def process(self, inputs: Sequence[Sample], outputs: Sequence[ModelResult]) -> None:
        """Adds a batch; see Evaluator."""
        for sample, (ids, segments) in paired(inputs, outputs, "panoptic_seg"):
            image_id = required(sample, "image_id")
            path = required(sample, "pan_seg_file_name")
            truth, predicted = read_panoptic_png(path), to_array(ids).astype(np.int64)
            check_size(str(path), predicted.shape, truth.shape)
            true_segments: list[SegmentInfo] = required(sample, "segments_info")
            self._check_classes(path, "ground truth", true_segments)
            self._check_classes(describe(sample), "prediction", segments)
            try:
                self._matches[image_id] = match_segments(truth, true_segments, predicted, segments)
            except EvaluationError as error:
                raise EvaluationError(f"{path}: {error}") from error

    def _check_classes(self, where: str, side: str, segments: Sequence[SegmentInfo]) -> None:
        for segment in segments:
            if not 0 <= segment["category_id"] < len(self._names):
                raise EvaluationError(
                    f"{where}: {side} segment {segment['id']} has class index {segment['category_id']}; "
                    f"this vocabulary has 0..{len(self._names) - 1} (contiguous indices, not dataset ids)"
                )

    def evaluate(self) -> Results:
        """{"panoptic": {PQ, SQ, RQ, PQ_th, ..., RQ_st, S_PQ, ..., U_RQ, PQ-name, ...}} in percent."""
        count = len(self._names)
        iou_sum = np.zeros(count)
        matched, false, missed = np.zeros(count), np.zeros(count), np.zeros(count)
        for found in gather_by_image(self._matches).values():
            np.add.at(iou_sum, found.matched_classes, found.matched_ious)
            np.add.at(matched, found.matched_classes, 1)
            np.add.at(false, found.false_classes, 1)
            np.add.at(missed, found.missed_classes, 1)
        weight = matched + 0.5 * (false + missed)
        per_class = {
            "PQ": percent_ratio(iou_sum, weight),
            "SQ": np.where(weight > 0, percent_ratio(iou_sum, np.maximum(matched, 1)), np.nan),
            "RQ": percent_ratio(matched, weight),
        }
        metrics: Metrics = {}
        for prefix, suffix, classes in self._groups:
            for metric, values in per_class.items():
                metrics[f"{prefix}{metric}{suffix}"] = mean_over(values, classes & (weight > 0))
        for metric, values in per_class.items():
            metrics.update(
                {f"{metric}-{name}": float(v) for name, v in zip(self._names, values, strict=True)}
            )
        return {"panoptic": metrics}
