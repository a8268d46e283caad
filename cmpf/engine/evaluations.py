# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Evaluation during training: when to evaluate, on which weights, the best metric so far, and images to log."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cmpf.common import distributed
from cmpf.common.tensors import EvaluationMode
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
    """Evaluates a model during training without changing its weights or the random state.

    Args:
        model: set to evaluation mode during an evaluation.
        evaluate: returns {dataset: {task: {metric: percent}}}; None = no evaluation.
        draw: draws images of a batch with the model's predictions; None = no images.
        period: iterations between evaluations; 0 = only the final one, which always runs.
        max_iter: total number of iterations.
        best_metric: see BestMetric; "" = no best weights.
        average: averaged weights, evaluated instead of the model's own; None = the model's own.
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
        """Whether an evaluation is due after `iteration` iterations and has not run yet."""
        return self._evaluate is not None and self._evaluated_at != iteration and self._at_period(iteration)

    def run(self, iteration: int, stop: StopRequest) -> tuple[dict[str, float], bool]:
        """Evaluates the model.

        Returns:
            The results as {"dataset/task/metric": percent}, and whether they are the best so far.
        Raises:
            Interrupted: this process or another one received a signal.
        """
        if self._evaluate is None:
            raise ValueError("there is nothing to evaluate")
        with stop.at_once(), self._evaluation_mode():
            try:
                results = self._evaluate()
            except RuntimeError as error:
                # The other processes wait in a collective for one that a signal stopped, until it fails.
                if distributed.is_parallel() and stop.requested:
                    raise Interrupted from error
                raise
        metrics = flatten_results(results)
        self.results = plain_results(results)
        self._evaluated_at = iteration
        return metrics, self.best is not None and self.best.update(iteration, metrics)

    def images(self, iteration: int, batch: Any) -> Images:
        """Images of a batch, in the main process at the iterations of evaluations; otherwise empty."""
        if self._draw is None or not distributed.is_main() or not self._at_period(iteration):
            return {}
        with self._evaluation_mode():
            return self._draw(batch)

    def weights(self) -> AbstractContextManager[None]:
        """A context in which the model has the weights to evaluate and publish: averaged ones if enabled."""
        return nullcontext() if self._average is None else self._average.applied()

    def state_dict(self) -> dict[str, Any]:
        """Latest results, their iteration, and the best value."""
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
    def _evaluation_mode(self) -> Iterator[None]:
        """Evaluation mode; restores modes, weights and random state, so that evaluating more often changes no run."""
        with preserved_rng(), self.weights(), EvaluationMode().of(self._model):
            yield


class BestMetric:
    """Tracks the best value of one metric; larger is better.

    Args:
        name: "metric", "task/metric" or "dataset/task/metric"; if several match, the first one is used.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.value = -math.inf
        self.iteration = 0

    def update(self, iteration: int, metrics: Mapping[str, float]) -> bool:
        """Updates with flattened results and returns whether they are the best so far; NaN never is.

        A missing metric only logs a warning: a run of hours should not fail because of its best checkpoint.
        """
        values = [value for key, value in metrics.items() if f"/{key}".endswith(f"/{self.name}")]
        if not values:
            available = list(dict.fromkeys(key.split("/", 1)[1] for key in metrics))
            logger.warning(
                "no best checkpoint: the evaluation has no metric %r, but %s. Set TEST.BEST_METRIC to one of "
                "them, or to '' for none",
                self.name,
                first_few(available) or "none at all",
            )
            return False
        if not values[0] > self.value:
            return False
        self.value, self.iteration = values[0], iteration
        return True

    def state_dict(self) -> dict[str, Any]:
        """The best value and its iteration."""
        return {"value": self.value, "iteration": self.iteration}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`."""
        self.value, self.iteration = float(state["value"]), int(state["iteration"])


def flatten_results(results: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, float]:
    """{dataset: {task: {metric: value}}} -> {"dataset/task/metric": value}, without per-class metrics (`AP-cat`)."""
    return {
        f"{dataset}/{task}/{metric}": float(value)
        for dataset, tasks in results.items()
        for task, metrics in tasks.items()
        for metric, value in metrics.items()
        if "-" not in metric
    }


def plain_results(results: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Results:
    """The results with Python floats: torch.load with weights_only=True rejects NumPy scalars."""
    return {
        dataset: {
            task: {metric: float(v) for metric, v in metrics.items()} for task, metrics in tasks.items()
        }
        for dataset, tasks in results.items()
    }


@dataclass(frozen=True)
class TrainingEnd:
    """What Trainer.train returns.

    Attributes:
        iteration: total iterations completed.
        finished: whether max_iter was reached and evaluated.
        stopped_by: name of the signal that stopped the run; "" if it finished.
        results: the latest evaluation; None if there was none.
    """

    iteration: int
    finished: bool
    stopped_by: str
    results: Results | None


def image_drawer(model: CMPF, *, count: int) -> Callable[[Sequence[Sample]], Images]:
    """A function that draws the first images of a training batch: the targets on the left, the panoptic prediction
    over the training vocabulary on the right.

    Args:
        model: must be in evaluation mode when the function is called.
        count: maximum number of images.
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
        samples = batch[:count]
        with torch.no_grad():
            results = model.infer([{"image": sample["image"]} for sample in samples], settings=settings)
        images: dict[str, NDArray[np.uint8]] = {}
        for number, (sample, result) in enumerate(zip(samples, results, strict=True)):
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
    """Converts targets to an id map (H, W), 0 = no segment, and its segments; the last of overlapping masks wins."""
    masks, labels = targets["masks"].cpu().numpy(), targets["labels"].tolist()
    ids = np.zeros(masks.shape[1:], dtype=np.int32)
    for number, mask in enumerate(masks, start=1):
        ids[mask] = number
    return ids, [{"id": number, "category_id": label} for number, label in enumerate(labels, start=1)]
