# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Evaluations in the middle of a training, which change nothing in it; its images, best weights, and how it ends."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cmpf.common import distributed
from cmpf.engine.interrupts import Interrupted, StopRequest
from cmpf.engine.optimizer import WeightAverage
from cmpf.engine.seeding import preserved_rng
from cmpf.engine.writers import Images
from cmpf.errors import first_few
from cmpf.model import CMPF
from cmpf.types import Sample, SegmentInfo, Targets
from cmpf.visualization import draw_panoptic

logger = logging.getLogger(__name__)

Results = dict[str, dict[str, dict[str, float]]]  # dataset -> task -> metric -> value in percent


class Evaluations:
    """When a model is evaluated, on which weights, and what came out.

    Args:
        model: brought into evaluation mode while it is looked at.
        evaluate: gives {dataset: {task: {metric: percent}}}; None = no evaluation.
        draw: images of a batch with the model's predictions; None = none.
        period: iterations between two evaluations; 0 = at the end only. There is always one at the end.
        max_iter: the end.
        best_metric: see BestMetric; "" = no best weights.
        average: its weights are looked at instead of the model's own.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        evaluate: Callable[[], Results] | None,
        draw: Callable[[Any], Images] | None,
        period: int,
        max_iter: int,
        best_metric: str,
        average: WeightAverage | None,
    ) -> None:
        self._model = model
        self._evaluate = evaluate
        self._draw = draw
        self._period = period
        self._max_iter = max_iter
        self._average = average
        self._evaluated_at = 0
        self.best = BestMetric(best_metric) if best_metric else None
        self.results: Results | None = None

    def due(self, iteration: int) -> bool:
        """Whether there is still an evaluation to make after so many iterations."""
        return self._evaluate is not None and self._evaluated_at != iteration and self._at_period(iteration)

    def run(self, iteration: int, stop: StopRequest) -> tuple[dict[str, float], bool]:
        """Evaluates.

        Returns:
            The results as {"dataset/task/metric": percent}, and whether they are the best so far.
        Raises:
            Interrupted: a signal came, to this process or to another one.
        """
        if self._evaluate is None:
            raise ValueError("there is nothing to evaluate")
        with stop.at_once(), self._unchanged():
            try:
                results = self._evaluate()
            except RuntimeError as error:
                # A process that a signal stopped leaves the others waiting for it, until this error ends that.
                if distributed.is_parallel() and stop.requested:
                    raise Interrupted from error
                raise
        metrics = flatten_results(results)
        self.results = plain_results(results)
        self._evaluated_at = iteration
        return metrics, self.best is not None and self.best.update(iteration, metrics)

    def images(self, iteration: int, batch: Any) -> Images:
        """Images of a batch where an evaluation would come, in the main process; empty elsewhere."""
        if self._draw is None or not distributed.is_main() or not self._at_period(iteration):
            return {}
        with self._unchanged():
            return self._draw(batch)

    @contextmanager
    def weights(self) -> Iterator[None]:
        """Inside, the model has the weights that a user gets: averaged, where that is asked for."""
        with nullcontext() if self._average is None else self._average.applied():
            yield

    def state_dict(self) -> dict[str, Any]:
        """Latest results, their iteration, and the best."""
        return {
            "best": self.best.state_dict() if self.best is not None else None,
            "evaluated_at": self._evaluated_at,
            "results": self.results,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`."""
        if self.best is not None and state["best"] is not None:
            self.best.load_state_dict(state["best"])
        self._evaluated_at = state["evaluated_at"]
        self.results = state["results"]

    def _at_period(self, iteration: int) -> bool:
        return iteration >= self._max_iter or (self._period > 0 and iteration % self._period == 0)

    @contextmanager
    def _unchanged(self) -> Iterator[None]:
        """Evaluation mode; no trace in weights and random generators: looking more often changes no weight."""
        with preserved_rng(), self.weights():
            self._model.eval()
            try:
                yield
            finally:
                self._model.train()


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
                first_few(there) or "none at all",
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


@dataclass(frozen=True)
class TrainingEnd:
    """How a call of Trainer.train ended.

    iteration: iterations done in all. finished: max_iter was reached and evaluated; otherwise `stopped_by`
    names the signal. results: the latest evaluation, None where there was none.
    """

    iteration: int
    finished: bool
    stopped_by: str
    results: Results | None


def image_drawer(model: CMPF, *, count: int) -> Callable[[Sequence[Sample]], Images]:
    """A function that draws the first images of a training batch: on the left the targets, on the right the panoptic
    prediction over the training vocabulary.

    Args:
        model: in evaluation mode when the function is called.
        count: images at most.
    """
    settings = replace(
        model.settings,
        panoptic=True,
        semantic=False,
        instance=False,
        mask_ensemble=None,
        proposals=False,
    )
    names = model.train_vocabulary.names

    def draw(batch: Sequence[Sample]) -> Images:
        chosen = batch[:count]
        with torch.no_grad():
            results = model.infer([{"image": sample["image"]} for sample in chosen], settings=settings)
        images: dict[str, NDArray[np.uint8]] = {}
        for number, (sample, result) in enumerate(zip(chosen, results, strict=True)):
            image = sample["image"].permute(1, 2, 0).to(torch.uint8).cpu().numpy()
            ids, segments = result["panoptic_seg"]
            halves = [
                draw_panoptic(image, *target_segments(sample["targets"]), names=names),
                draw_panoptic(image, ids.cpu().numpy(), segments, names=names),
            ]
            images[f"training/image_{number}"] = np.hstack([np.asarray(half) for half in halves])
        return images

    return draw


def target_segments(targets: Targets) -> tuple[NDArray[np.int32], list[SegmentInfo]]:
    """Targets as segments: ids (H, W), 0 = none, and what each one is. Where masks overlap the last one shows."""
    masks, labels = targets["masks"].cpu().numpy(), targets["labels"].tolist()
    ids = np.zeros(masks.shape[1:], dtype=np.int32)
    for number, mask in enumerate(masks, start=1):
        ids[mask] = number
    return ids, [{"id": number, "category_id": label} for number, label in enumerate(labels, start=1)]
