# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The training loop: an interrupted and resumed run ends with the very weights of an uninterrupted one."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from cmpf.common import distributed
from cmpf.engine.checkpoints import Checkpointer
from cmpf.engine.evaluations import Evaluations, Results, TrainingEnd
from cmpf.engine.failures import IssueCounter, failure, images_of_all, unreadable_image
from cmpf.engine.forward import Forward, PlainForward
from cmpf.engine.interrupts import Interrupted, StopRequest
from cmpf.engine.logs import FILE_ONLY
from cmpf.engine.optimizer import WeightAverage, check_optimizer, load_optimizer
from cmpf.engine.schedule import Schedule
from cmpf.engine.seeding import TrainLoader, rng_state, set_rank_rng_state
from cmpf.engine.step import Record, StepResult, TrainStep, max_memory
from cmpf.engine.writers import Images, Reporter, Writer
from cmpf.errors import CMPFError, TrainingError

logger = logging.getLogger(__name__)

ISSUES_ALLOWED = 10


class Trainer:
    """Trains a model, in one process or as one of several that do the same (cmpf/common/distributed.py).

    Args:
        model: `model(batch)` in training mode gives a dict of weighted losses, whose sum is minimised.
        loader: endless batches; see TrainLoader.
        optimizer: holds exactly the parameters that require a gradient.
        schedule: drives the optimizer's learning rate.
        max_iter: iterations in all.
        checkpointer: where checkpoints go; rank 0 alone writes and reads them.
        checkpoint_period: a checkpoint every so many iterations, and at the end.
        writers: hear about losses and results; none in processes other than rank 0.
        log_period: iterations of which a summary is the mean.
        evaluate: gives {dataset: {task: {metric: percent}}}; None = no evaluation.
        eval_period: an evaluation every so many iterations, and at the end; 0 = at the end only.
        best_metric: the best weights by this metric are kept as model_best.safetensors; "" = not kept.
        amp: mixed precision on a GPU.
        clip_norm: largest L2 norm of all gradients together; math.inf = no clipping.
        amp_dtype: "auto", "bf16" or "fp16".
        accumulation_steps: parts that a batch is cut into to save memory.
        forward: from batches to losses; None = the mean of `model(batch)` over the samples.
        average: its averaged weights are evaluated, and saved as best and final ones; None = the weights themselves.
        draw: images of a batch with the model's predictions, wherever an evaluation is due; None = none.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        loader: TrainLoader,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        max_iter: int,
        checkpointer: Checkpointer,
        checkpoint_period: int,
        writers: Sequence[Writer],
        log_period: int,
        evaluate: Callable[[], Results] | None,
        eval_period: int,
        best_metric: str,
        amp: bool,
        clip_norm: float,
        amp_dtype: str = "auto",
        accumulation_steps: int = 1,
        forward: Forward | None = None,
        average: WeightAverage | None = None,
        draw: Callable[[Any], Images] | None = None,
    ) -> None:
        check_optimizer(optimizer, model)
        self.model = model
        self.loader = loader
        self.optimizer = optimizer
        self.schedule = schedule
        self.max_iter = max_iter
        self.checkpointer = checkpointer
        self.checkpoint_period = checkpoint_period
        self.average = average
        self.iteration = 0
        self.evaluations = Evaluations(
            model=model,
            evaluate=evaluate,
            draw=draw,
            period=eval_period,
            max_iter=max_iter,
            best_metric=best_metric,
            average=average,
        )
        self.step = TrainStep(
            forward=forward or PlainForward(model),
            optimizer=optimizer,
            amp=amp,
            amp_dtype=amp_dtype,
            clip_norm=clip_norm,
            accumulation_steps=accumulation_steps,
        )
        self._reporter = Reporter(writers, log_period=log_period)
        self._position = loader.state_dict()
        self._issues = IssueCounter(allowed=ISSUES_ALLOWED)
        self._saved = False
        self._stopped_by = ""

    def resume(self) -> bool:
        """Goes to the newest whole checkpoint; False where there is none and training starts at 0."""
        state = distributed.on_main(self.checkpointer.load_newest)
        if state is None:
            return False
        distributed.broadcast_tensors([p for p in self.model.parameters() if p.requires_grad])
        self._load_state(state)
        self._saved = True
        return True

    def train(self) -> TrainingEnd:
        """Trains up to max_iter, or until SIGINT, SIGTERM or SIGUSR1: finishes the iteration and saves.

        Raises:
            TrainingError: OUTPUT_DIR holds another run's checkpoints and resume() was not called; losses or
                gradients are not finite ten times in a row, or the model reports an issue: then a checkpoint
                is left, and failed_batch.json names the images of the batch; or an image cannot be read: then a
                checkpoint is left, too.
        """
        if self.iteration == 0 and not self._saved:
            distributed.on_main(self.checkpointer.check_unused)
        if self.iteration < self.max_iter:
            dtype = self.step.precision.dtype
            logger.info("training from iteration %d to %d in %s", self.iteration, self.max_iter, dtype)
        else:
            logger.info("iteration %d of %d: nothing is left to train", self.iteration, self.max_iter)
        self.model.train()
        self._reporter.start(self.iteration, self.max_iter)
        try:
            with StopRequest() as stop:
                finished = self._loop(stop)
        finally:
            self._reporter.close()
        return TrainingEnd(self.iteration, finished, self._stopped_by, self.evaluations.results)

    def _loop(self, stop: StopRequest) -> bool:
        """True when max_iter was reached, False when a signal came before, to whichever process."""
        batches = iter(self.loader)
        while not distributed.any_process(stop.requested):
            if self.evaluations.due(self.iteration):
                try:
                    self._evaluate(stop)
                except Interrupted:  # the checkpoint before the evaluation is there; resuming evaluates again
                    self._stopped_by = stop.signal_name
                    return False
            elif self.iteration >= self.max_iter:
                if not self._saved:
                    self.save()
                self._save_named("final")
                return True
            else:
                self._run_iteration(batches, stop)
        self._stopped_by = next(filter(None, distributed.gather(stop.signal_name)), "")
        if not self._saved:
            self.save()
        return False

    def _run_iteration(self, batches: Iterator[Any], stop: StopRequest) -> None:
        started = time.perf_counter()
        batch = self._fetch(batches, stop)
        if batch is None:
            return
        fetched = time.perf_counter()
        self._saved = False
        lr = self.schedule.learning_rate
        try:
            result = self.step(batch)
        except TrainingError as error:
            raise self._failure(f"iteration {self.iteration + 1}: {error}", batch) from error
        self.iteration += 1
        self.schedule.step()
        self._check(result, batch)
        if self.average is not None and not result.issue:
            self.average.update()
        self._reporter.iteration(
            Record(
                iteration=self.iteration,
                max_iter=self.max_iter,
                total_loss=sum(result.losses.values()),
                losses=result.losses,
                lr=lr,
                grad_norm=result.grad_norm,
                data_time=fetched - started,
                step_time=time.perf_counter() - fetched,
                max_memory=max_memory(self.step.device),
            )
        )
        if images := self.evaluations.images(self.iteration, batch):
            self._reporter.images(self.iteration, images)
        if self.iteration % self.checkpoint_period == 0 or self.evaluations.due(self.iteration):
            self.save()

    def _fetch(self, batches: Iterator[Any], stop: StopRequest) -> Any | None:
        """The next batch; None where a process has none, because a signal ended its loader's workers.

        Raises:
            TrainingError: an image or its ground truth cannot be read; a checkpoint is left.
        """
        batch = unreadable = None
        try:
            batch = next(batches)
        except CMPFError as error:
            unreadable = error
        except RuntimeError:
            # A signal to the whole process group ends the loader's workers too; then the stop is what counts.
            if not stop.requested:
                raise
        if distributed.any_process(unreadable is not None):
            self.save()
            raise unreadable_image(unreadable, self.checkpointer.weights_path(self.iteration)) from unreadable
        if distributed.any_process(batch is None):
            return None
        self._position = self.loader.state_dict()
        return batch

    def _check(self, result: StepResult, batch: Any) -> None:
        """Counts steps that were left out; in all processes they are the same ones."""
        images = images_of_all(batch) if result.issue else []
        if self._issues.add(result.issue, iteration=self.iteration, images=images):
            self._issues.in_a_row = 0  # so that a resumed run gets as many again
            raise self._failure(
                f"losses or gradients were not finite {ISSUES_ALLOWED} times in a row, the last time in "
                f"iteration {self.iteration} ({result.issue})",
                batch,
            )

    def _failure(self, issue: str, batch: Any) -> TrainingError:
        """Saves the batch's names and a checkpoint, and gives the error that tells of both."""
        images, files = images_of_all(batch), self.checkpointer
        weights = files.weights_path(self.iteration)
        error = failure(issue, iteration=self.iteration, images=images, folder=files.folder, weights=weights)
        self.save()
        return error

    def _evaluate(self, stop: StopRequest) -> None:
        metrics, best = self.evaluations.run(self.iteration, stop)
        self._reporter.results(self.iteration, metrics)
        if best:
            self._save_named("best")
        self.save()

    def _save_named(self, name: str) -> None:
        if distributed.is_main():
            with self.evaluations.weights():
                self.checkpointer.save_named(name)

    def save(self) -> None:
        """Writes a checkpoint of this very moment; all processes must call it."""
        state = self._state()
        if distributed.is_main():
            path = self.checkpointer.save(self.iteration, state)
            logger.info("checkpoint written: %s", path, extra=FILE_ONLY)
        self._saved = True

    def _state(self) -> dict[str, Any]:
        return {
            "iteration": self.iteration,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "loader": self._position,
            "precision": self.step.precision.state_dict(),
            "rng": distributed.gather(rng_state()),
            "window": self._reporter.state_dict(),
            "average": self.average.state_dict() if self.average is not None else None,
            "issues_in_a_row": self._issues.in_a_row,
            **self.evaluations.state_dict(),
        }

    def _load_state(self, state: Mapping[str, Any]) -> None:
        self.iteration = state["iteration"]
        load_optimizer(self.optimizer, state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.loader.load_state_dict(state["loader"])
        self._position = self.loader.state_dict()
        self.step.precision.load_state_dict(state["precision"])
        set_rank_rng_state(state["rng"], iteration=self.iteration)
        self._reporter.load_state_dict(state["window"])
        if self.average is not None:
            self.average.resume(state.get("average"))
        self._issues.in_a_row = state["issues_in_a_row"]
        self.evaluations.load_state_dict(state)
