# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Panoptic quality."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cmpf.errors import EvaluationError
from cmpf.evaluation.gathering import ImageId, gather_by_image
from cmpf.evaluation.ground_truth import check_size, describe, paired, required, to_array
from cmpf.evaluation.matching import SegmentMatches, match_segments
from cmpf.evaluation.panoptic_quality import PanopticTally, panoptic_groups
from cmpf.evaluation.protocol import Results
from cmpf.formats.label_map import read_panoptic_ids
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
        self._groups = panoptic_groups(is_thing, seen, len(self._names))
        self._matches: dict[ImageId, SegmentMatches] = {}

    def reset(self) -> None:
        """Forgets all images."""
        self._matches = {}

    def process(self, inputs: Sequence[Sample], outputs: Sequence[ModelResult]) -> None:
        """Adds a batch; see Evaluator."""
        for sample, (ids, segments) in paired(inputs, outputs, "panoptic_seg"):
            image_id = required(sample, "image_id")
            path = required(sample, "pan_seg_file_name")
            truth, predicted = read_panoptic_ids(path).astype(np.int64), to_array(ids).astype(np.int64)
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
        tally = PanopticTally(len(self._names))
        for matches in gather_by_image(self._matches).values():
            tally.add(matches)
        return {"panoptic": tally.metrics(self._names, self._groups)}
