# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Matches predicted to true segments as the COCO panoptic API does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cmpf.errors import EvaluationError
from cmpf.types import SegmentInfo

Ids = npt.NDArray[np.int64]


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
        EvaluationError: an id in an image is not listed, or twice, or a listed prediction has no pixel.
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
