# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Evaluation results as flat numbers, and the best of them so far."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

logger = logging.getLogger(__name__)

Results = dict[str, dict[str, dict[str, float]]]  # dataset -> task -> metric -> value in percent


def flatten_results(results: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, float]:
    """{dataset: {task: {metric: value}}} -> {"dataset/task/metric": value}; `metric-class` is left out."""
    return {
        f"{dataset}/{task}/{metric}": float(value)
        for dataset, tasks in results.items()
        for task, metrics in tasks.items()
        for metric, value in metrics.items()
        if "-" not in metric
    }


def plain_results(results: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Results:
    """The same results in Python's own floats; numpy's could not be read back with weights_only=True."""
    return {
        dataset: {
            task: {metric: float(v) for metric, v in metrics.items()} for task, metrics in tasks.items()
        }
        for dataset, tasks in results.items()
    }


class BestMetric:
    """Remembers the best value of one metric; larger is better.

    Args:
        name: "metric", "task/metric" or "dataset/task/metric"; of several datasets the first counts.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.value = -math.inf
        self.iteration = 0

    def update(self, iteration: int, metrics: Mapping[str, float]) -> bool:
        """Takes a flat evaluation in and tells whether it is the best so far; NaN never is.

        A lacking metric is a warning: hours of training should not end over the choice of a file to keep.
        """
        found = [value for key, value in metrics.items() if f"/{key}".endswith(f"/{self.name}")]
        if not found:
            there = list(dict.fromkeys(key.split("/", 1)[1] for key in metrics))
            logger.warning(
                "no best checkpoint: the evaluation has no metric %r, but %s. Set TEST.BEST_METRIC to one of "
                "them, or to '' for none",
                self.name,
                ", ".join(there[:5]) + (f" and {len(there) - 5} more" if len(there) > 5 else "")
                or "none at all",
            )
            return False
        if not found[0] > self.value:
            return False
        self.value, self.iteration = found[0], iteration
        return True

    def state_dict(self) -> dict[str, Any]:
        """Best value and its iteration."""
        return {"value": self.value, "iteration": self.iteration}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`."""
        self.value, self.iteration = float(state["value"]), int(state["iteration"])
