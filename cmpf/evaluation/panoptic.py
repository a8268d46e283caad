# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Panoptic quality by the definition of the COCO panoptic API."""

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
    check_size,
    class_flags,
    describe,
    gather_by_image,
    mean_over,
    new_image,
    paired,
    percent_ratio,
    required,
    seen_groups,
    to_array,
    whole_numbers,
)
from cmpf.formats.label_map import read_panoptic_ids
from cmpf.types import ModelResult, Sample, SegmentInfo

Group = tuple[str, str, npt.NDArray[np.bool_]]  # prefix and suffix of the metric's name, classes (K,)
Ids = npt.NDArray[np.int64]


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
            class_names: one per class, in the order of the class indices.
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
            new_image(image_id, self._matches, describe(sample))
            truth = read_panoptic_ids(path).astype(np.int64)
            predicted = whole_numbers(to_array(ids), f"{describe(sample)}: predicted segment ids")
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
        """{"panoptic": {PQ, SQ, RQ, PQ_th, ..., RQ_st, S_PQ, ..., U_RQ, PQ-name, ...}} in percent."""
        tally = PanopticTally(len(self._names))
        for matches in gather_by_image(self._matches).values():
            tally.add(matches)
        return {"panoptic": tally.metrics(self._names, self._groups)}


def panoptic_groups(is_thing: Sequence[bool], seen: Sequence[bool] | None, num_classes: int) -> list[Group]:
    """All classes, things, stuff, and where `seen` is known the seen and unseen ones.

    Raises:
        EvaluationError: not one flag per class.
    """
    things = class_flags("is_thing", is_thing, num_classes)
    groups = [(prefix, "", classes) for prefix, classes in seen_groups(seen, num_classes)]
    return [groups[0], ("", "_th", things), ("", "_st", ~things), *groups[1:]]


class PanopticTally:
    """Matched, false and missed segments of each class, summed over images."""

    def __init__(self, num_classes: int) -> None:
        self._iou_sum, self._matched, self._false, self._missed = np.zeros((4, num_classes))

    def add(self, matches: SegmentMatches) -> None:
        """Adds an image."""
        np.add.at(self._iou_sum, matches.matched_classes, matches.matched_ious)
        np.add.at(self._matched, matches.matched_classes, 1)
        np.add.at(self._false, matches.false_classes, 1)
        np.add.at(self._missed, matches.missed_classes, 1)

    def metrics(self, class_names: Sequence[str], groups: Sequence[Group]) -> Metrics:
        """PQ, SQ, RQ for each group, means over the classes that occur, and for each class, in percent.

        A class that occurs without any match has SQ = 0, as in the COCO panoptic API; one that does not occur
        has NaN.
        """
        weight = self._matched + 0.5 * (self._false + self._missed)
        per_class = {
            "PQ": percent_ratio(self._iou_sum, weight),
            "SQ": np.where(weight > 0, percent_ratio(self._iou_sum, np.maximum(self._matched, 1)), np.nan),
            "RQ": percent_ratio(self._matched, weight),
        }
        metrics: Metrics = {}
        for prefix, suffix, classes in groups:
            for metric, values in per_class.items():
                metrics[f"{prefix}{metric}{suffix}"] = mean_over(values, classes & (weight > 0))
        for metric, values in per_class.items():
            metrics.update({f"{metric}-{n}": float(v) for n, v in zip(class_names, values, strict=True)})
        return metrics


@dataclass(frozen=True)
class SegmentMatches:
    """Outcome of one image: class indices of matched, false and missed segments, and IoU of the matched."""

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

    As in the COCO panoptic API: true void (id 0) is removed from the union; crowd segments are never matched
    nor missed; an unmatched prediction more than half of which lies on void or on a crowd of its class (the
    last one listed, if there are several) is not counted as false. A listed true segment without a pixel
    counts as missed. The area of a true segment is the one that is listed, and is measured where none is.

    Args:
        true_ids, predicted_ids: (H, W) segment ids, 0 is void.
        true_segments, predicted_segments: their `id` and contiguous `category_id`; in the truth also `iscrowd`
            and `area`.
    Raises:
        EvaluationError: an id in an image is not listed, or twice, a listed prediction has no pixel, or a true area is
            listed that is smaller than what the image shows, with which IoU could exceed 1.
    """
    true_position = _positions(true_ids, [s["id"] for s in true_segments], "ground truth")
    predicted_position = _positions(predicted_ids, [s["id"] for s in predicted_segments], "prediction")
    columns = len(predicted_segments) + 1
    pairs = true_position * columns + predicted_position
    overlap = np.bincount(pairs, minlength=(len(true_segments) + 1) * columns).reshape(-1, columns)

    predicted_area = overlap.sum(axis=0)[1:]
    if (predicted_area == 0).any():
        lost = [s["id"] for s, area in zip(predicted_segments, predicted_area, strict=True) if area == 0]
        raise EvaluationError(
            f"prediction lists segments {lost[:5]}, which have no pixel; leave empty ones out"
        )
    measured = overlap.sum(axis=1)[1:].tolist()
    listed = [s.get("area", area) for s, area in zip(true_segments, measured, strict=True)]
    for segment, area, pixels in zip(true_segments, listed, measured, strict=True):
        number = isinstance(area, int | float | np.integer) and not isinstance(area, bool)
        if not number or not math.isfinite(area) or area != int(area) or area < pixels:
            raise EvaluationError(
                f"ground truth lists segment {segment['id']} with area {area!r} and shows {pixels} pixels of it; make "
                "the list again"
            )
    true_area = np.array(listed, dtype=np.int64)
    on_void, shared = overlap[0, 1:], overlap[1:, 1:]
    true_class = np.array([s["category_id"] for s in true_segments], dtype=np.int64)
    predicted_class = np.array([s["category_id"] for s in predicted_segments], dtype=np.int64)
    crowd = np.array([bool(s.get("iscrowd", 0)) for s in true_segments], dtype=bool)

    union = np.maximum(true_area[:, None] + (predicted_area - on_void)[None] - shared, 1)
    iou = shared / union
    match = (iou > 0.5) & (true_class[:, None] == predicted_class[None]) & ~crowd[:, None]
    rows, matched_predictions = np.nonzero(match)

    ignored = on_void.copy()
    crowd_of_class = {int(true_class[i]): int(i) for i in np.flatnonzero(crowd)}
    for column, category in enumerate(predicted_class.tolist()):
        if category in crowd_of_class:
            ignored[column] += shared[crowd_of_class[category], column]
    false = ~match.any(axis=0) & (ignored <= 0.5 * predicted_area)
    missed = ~match.any(axis=1) & ~crowd
    return SegmentMatches(
        matched_classes=true_class[rows],
        matched_ious=iou[rows, matched_predictions],
        false_classes=predicted_class[false],
        missed_classes=true_class[missed],
    )


def _positions(ids: Ids, listed: Sequence[int], side: str) -> Ids:
    """(H * W,) place of each pixel's segment in `listed`, counted from 1; 0 for void."""
    known = np.array([0, *listed], dtype=np.int64)
    order = np.argsort(known, kind="stable")
    ascending = known[order]
    if (np.diff(ascending) == 0).any():
        repeated = sorted({int(v) for v in ascending[1:][np.diff(ascending) == 0]})
        raise EvaluationError(f"{side} lists segment ids {repeated[:5]} twice, or uses 0, which is void")
    pixels = ids.reshape(-1)
    place = np.searchsorted(ascending, pixels).clip(max=len(ascending) - 1)
    strangers = ascending[place] != pixels
    if strangers.any():
        unknown = np.unique(pixels[strangers])[:5].tolist()
        raise EvaluationError(f"{side} image holds ids {unknown}, which are not in its list of segments")
    positions: Ids = order[place]
    return positions
