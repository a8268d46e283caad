# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Panoptic quality as defined by the COCO panoptic API."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cmpf.errors import EvaluationError
from cmpf.evaluation.evaluator import (
    ImageId,
    Metrics,
    Results,
    check_new_image,
    check_size,
    class_flags,
    describe,
    gather_by_image,
    mean_over,
    paired,
    percent_ratio,
    required,
    seen_groups,
    to_array,
    to_integers,
)
from cmpf.formats.label_map import read_panoptic_ids
from cmpf.types import ModelResult, Sample, SegmentInfo

Group = tuple[str, str, npt.NDArray[np.bool_]]  # prefix and suffix of the metric names, classes (K,)
Ids = npt.NDArray[np.int64]


class PanopticEvaluator:
    """Evaluates PQ, SQ and RQ from `outputs["panoptic_seg"]`, as defined by the COCO panoptic API.

    The ground truth is the sample's `pan_seg_file_name` and `segments_info` with contiguous class indices. PQ = SQ * RQ
    for each class. Means are over the classes with a true positive, false positive or false negative (with SQ = 0 for a
    class without a match, as in the API); PQ_th and PQ_st are for things and stuff.
    """

    def __init__(
        self, *, class_names: Sequence[str], is_thing: Sequence[bool], seen: Sequence[bool] | None = None
    ) -> None:
        """
        Args:
            class_names: names in the order of the class indices.
            is_thing: (K,) whether each class is a thing.
            seen: (K,) whether each class was seen in training; None = no metrics for seen and unseen classes.
        """
        self._names = tuple(class_names)
        self._groups = panoptic_groups(is_thing, seen, len(self._names))
        self._matches: dict[ImageId, SegmentMatches] = {}

    def reset(self) -> None:
        """Clears all images."""
        self._matches = {}

    def process(self, inputs: Sequence[Sample], outputs: Sequence[ModelResult]) -> None:
        """Adds a batch; see Evaluator."""
        for sample, (ids, segments) in paired(inputs, outputs, "panoptic_seg"):
            image_id = required(sample, "image_id")
            path = required(sample, "pan_seg_file_name")
            check_new_image(image_id, self._matches, describe(sample))
            truth = read_panoptic_ids(path).astype(np.int64)
            predicted = to_integers(to_array(ids), f"{describe(sample)}: predicted segment ids")
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
            for key in ("id", "category_id"):
                number: object = segment[key]
                if isinstance(number, bool) or not isinstance(number, int | np.integer):
                    raise EvaluationError(f"{where}: {side} segment with {key} {number!r}, no whole number")
            if not 0 <= segment["category_id"] < len(self._names):
                raise EvaluationError(
                    f"{where}: {side} segment {segment['id']} has class index {segment['category_id']}; "
                    f"this vocabulary has 0..{len(self._names) - 1} (contiguous indices, not dataset ids)"
                )

    def evaluate(self) -> Results:
        """Returns {"panoptic": {PQ, SQ, RQ, PQ_th, ..., RQ_st, S_PQ, ..., U_RQ, PQ-name, ...}} in percent."""
        tally = PanopticTally(len(self._names))
        for matches in gather_by_image(self._matches).values():
            tally.add(matches)
        return {"panoptic": tally.metrics(self._names, self._groups)}


def panoptic_groups(is_thing: Sequence[bool], seen: Sequence[bool] | None, num_classes: int) -> list[Group]:
    """Groups of classes for the means: all, things, stuff, and with `seen` also seen and unseen.

    Raises:
        EvaluationError: not one flag per class.
    """
    things = class_flags("is_thing", is_thing, num_classes)
    groups = [(prefix, "", classes) for prefix, classes in seen_groups(seen, num_classes)]
    return [groups[0], ("", "_th", things), ("", "_st", ~things), *groups[1:]]


class PanopticTally:
    """True positives, false positives, false negatives and IoU sum of each class over all images."""

    def __init__(self, num_classes: int) -> None:
        self._iou_sum, self._tp, self._fp, self._fn = np.zeros((4, num_classes))

    def add(self, matches: SegmentMatches) -> None:
        """Adds an image."""
        np.add.at(self._iou_sum, matches.matched_classes, matches.matched_ious)
        np.add.at(self._tp, matches.matched_classes, 1)
        np.add.at(self._fp, matches.false_classes, 1)
        np.add.at(self._fn, matches.missed_classes, 1)

    def metrics(self, class_names: Sequence[str], groups: Sequence[Group]) -> Metrics:
        """PQ, SQ and RQ of each group (means over the classes that occur) and of each class, in percent.

        A class that occurs without a match has SQ = 0, as in the COCO panoptic API; a class that does not occur
        has NaN.
        """
        denominator = self._tp + 0.5 * (self._fp + self._fn)
        occurs = denominator > 0
        per_class = {
            "PQ": percent_ratio(self._iou_sum, denominator),
            "SQ": np.where(occurs, percent_ratio(self._iou_sum, np.maximum(self._tp, 1)), np.nan),
            "RQ": percent_ratio(self._tp, denominator),
        }
        metrics: Metrics = {}
        for prefix, suffix, classes in groups:
            for metric, values in per_class.items():
                metrics[f"{prefix}{metric}{suffix}"] = mean_over(values, classes & occurs)
        for metric, values in per_class.items():
            metrics.update({f"{metric}-{n}": float(v) for n, v in zip(class_names, values, strict=True)})
        return metrics


@dataclass(frozen=True)
class SegmentMatches:
    """Matches of one image: class indices of true positives with their IoU, of false positives and false negatives."""

    matched_classes: Ids
    matched_ious: npt.NDArray[np.float64]
    false_classes: Ids
    missed_classes: Ids


def match_segments(
    true_ids: Ids,
    true_segments: Sequence[SegmentInfo],
    predicted_ids: Ids,
    predicted_segments: Sequence[SegmentInfo],
) -> SegmentMatches:
    """Matches segments of equal class with IoU > 0.5 (Kirillov et al., Panoptic Segmentation, section 4).

    As in the COCO panoptic API: void (id 0) of the ground truth is removed from the union; crowd segments are never
    matched nor false negatives; an unmatched prediction with more than half its pixels on void or on a crowd of its
    class (the last one, if there are several) is no false positive. A listed true segment without pixels is a false
    negative. The area of a true segment is the listed one, or is measured if none is listed.

    Args:
        true_ids, predicted_ids: (H, W) segment ids, 0 = void.
        true_segments, predicted_segments: `id` and contiguous `category_id` of each segment; in the ground truth also
            `iscrowd` and `area`.
    Raises:
        EvaluationError: an id in an image is not listed, an id is listed twice, a listed prediction has no pixels, or
            a listed true area is smaller than in the image, so that IoU could exceed 1.
    """
    true_index = _segment_indices(true_ids, [s["id"] for s in true_segments], "ground truth")
    predicted_index = _segment_indices(predicted_ids, [s["id"] for s in predicted_segments], "prediction")
    columns = len(predicted_segments) + 1
    pairs = true_index * columns + predicted_index
    overlap = np.bincount(pairs, minlength=(len(true_segments) + 1) * columns).reshape(-1, columns)

    predicted_area = overlap.sum(axis=0)[1:]
    if (predicted_area == 0).any():
        empty = [s["id"] for s, area in zip(predicted_segments, predicted_area, strict=True) if area == 0]
        raise EvaluationError(
            f"prediction lists segments {empty[:5]}, which have no pixel; leave empty ones out"
        )
    measured = overlap.sum(axis=1)[1:].tolist()
    listed = [s.get("area", area) for s, area in zip(true_segments, measured, strict=True)]
    for segment, area, pixels in zip(true_segments, listed, measured, strict=True):
        is_number = isinstance(area, int | float | np.integer) and not isinstance(area, bool)
        if not is_number or not math.isfinite(area) or area != int(area) or area < pixels:
            raise EvaluationError(
                f"ground truth lists segment {segment['id']} with area {area!r} and shows {pixels} pixels of it; make "
                "the list again"
            )
    true_area = np.array(listed, dtype=np.int64)
    on_void, intersection = overlap[0, 1:], overlap[1:, 1:]
    true_class = np.array([s["category_id"] for s in true_segments], dtype=np.int64)
    predicted_class = np.array([s["category_id"] for s in predicted_segments], dtype=np.int64)
    crowd = np.array([bool(s.get("iscrowd", 0)) for s in true_segments], dtype=bool)

    union = np.maximum(true_area[:, None] + (predicted_area - on_void)[None] - intersection, 1)
    iou = intersection / union
    match = (iou > 0.5) & (true_class[:, None] == predicted_class[None]) & ~crowd[:, None]
    rows, matched_predictions = np.nonzero(match)

    ignored = on_void.copy()
    crowd_of_class = {int(true_class[i]): int(i) for i in np.flatnonzero(crowd)}
    for column, category in enumerate(predicted_class.tolist()):
        if category in crowd_of_class:
            ignored[column] += intersection[crowd_of_class[category], column]
    false = ~match.any(axis=0) & (ignored <= 0.5 * predicted_area)
    missed = ~match.any(axis=1) & ~crowd
    return SegmentMatches(
        matched_classes=true_class[rows],
        matched_ious=iou[rows, matched_predictions],
        false_classes=predicted_class[false],
        missed_classes=true_class[missed],
    )


def _segment_indices(ids: Ids, listed: Sequence[int], side: str) -> Ids:
    """(H * W,) index of each pixel's segment in `listed`, from 1; 0 for void."""
    known = np.array([0, *listed], dtype=np.int64)
    order = np.argsort(known, kind="stable")
    ascending = known[order]
    if (np.diff(ascending) == 0).any():
        repeated = sorted({int(v) for v in ascending[1:][np.diff(ascending) == 0]})
        raise EvaluationError(f"{side} lists segment ids {repeated[:5]} twice, or uses 0, which is void")
    pixels = ids.reshape(-1)
    rank = np.searchsorted(ascending, pixels).clip(max=len(ascending) - 1)
    is_unknown = ascending[rank] != pixels
    if is_unknown.any():
        unknown = np.unique(pixels[is_unknown])[:5].tolist()
        raise EvaluationError(f"{side} image holds ids {unknown}, which are not in its list of segments")
    indices: Ids = order[rank]
    return indices
