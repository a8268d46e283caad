# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Runs a model over a dataset and asks the evaluators."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.distributed as dist
from tqdm import tqdm

from cmpf.errors import EvaluationError
from cmpf.evaluation.protocol import Evaluator, Results
from cmpf.types import ModelResult, Sample

QUIET_INTERVAL = 10.0  # seconds between two states of the bar in a log file


def evaluate(
    model_call: Callable[[list[Sample]], Sequence[ModelResult]],
    loader: Iterable[list[Sample]],
    evaluators: Sequence[Evaluator],
    *,
    progress: bool,
) -> Results:
    """Results of all evaluators over the batches of a loader, without gradients.

    With several processes each runs its own share of the dataset; all must call this, and all get the results
    of the whole dataset.

    Args:
        model_call: batch of samples -> one result an image; the model is already in evaluation mode.
        loader: batches.
        evaluators: each is reset first; no two may report the same task.
        progress: show a bar on the terminal (first process only).
    Raises:
        EvaluationError: prediction and ground truth do not fit together, or two evaluators report one task.
    """
    for evaluator in evaluators:
        evaluator.reset()
    first = not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0
    with torch.no_grad():
        bar = tqdm(
            loader,
            desc="evaluate",
            unit="batch",
            disable=not (progress and first),
            mininterval=0.1 if sys.stderr.isatty() else QUIET_INTERVAL,
        )
        for batch in bar:
            outputs = model_call(batch)
            for evaluator in evaluators:
                evaluator.process(batch, outputs)
    results: Results = {}
    for evaluator in evaluators:
        for task, metrics in evaluator.evaluate().items():
            if task in results:
                raise EvaluationError(
                    f"two evaluators report the task {task!r}; give each dataset one of a kind"
                )
            results[task] = metrics
    return results
