# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What every evaluator offers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from cmpf.types import ModelResult, Sample

Metrics = dict[str, float]  # metric -> percent; NaN where it is undefined (no class to average over)
Results = dict[str, Metrics]  # task -> metrics


class Evaluator(Protocol):
    """Detectron2's protocol: reset, process batch after batch, evaluate once.

    Each keeps one small statistic for each image id, so that an image that is seen twice (padding of a
    distributed sampler) counts once, and one process and many give the same numbers.
    Metric names: plain for all classes, `S_` for seen and `U_` for unseen ones (left out when no seen flags
    were given), `metric-class name` for one class.
    """

    def reset(self) -> None:
        """Forgets all images."""
        ...

    def process(self, inputs: Sequence[Sample], outputs: Sequence[ModelResult]) -> None:
        """Adds a batch: the samples and, in the same order, what the model made of them.

        Raises:
            EvaluationError: prediction and ground truth do not fit together; the message names the file.
        """
        ...

    def evaluate(self) -> Results:
        """Metrics over all images of all processes; every process must call it, and all get the result."""
        ...
