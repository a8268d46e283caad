# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Panoptic quality from matched segments."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cmpf.evaluation.averages import class_flags, mean_over, percent_ratio, seen_groups
from cmpf.evaluation.matching import SegmentMatches
from cmpf.evaluation.protocol import Metrics

Group = tuple[str, str, npt.NDArray[np.bool_]]  # prefix and suffix of the metric's name, classes (K,)


def panoptic_groups(is_thing: Sequence[bool], seen: Sequence[bool] | None, num_classes: int) -> list[Group]:
    """All classes, things, stuff, and where `seen` is known the seen and unseen ones.

    Raises:
        EvaluationError: not one flag a class.
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
