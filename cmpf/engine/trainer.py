# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The training loop. An interrupted and resumed run ends with exactly the weights of an uninterrupted one."""

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
from cmpf.engine.failures import IssueCounter, failure, gather_image_names, unreadable_image
from cmpf.engine.forward import CMPFForward
from cmpf.engine.interrupts import Interrupted, StopRequest
from cmpf.engine.logs import FILE_ONLY
from cmpf.engine.optimizer import WeightAverage, check_gradients, check_optimizer, load_optimizer
from cmpf.engine.schedule import Schedule
from cmpf.engine.seeding import TrainLoader, rng_state, set_rank_rng_state
from cmpf.engine.step import Record, StepResult, TrainStep, max_memory
from cmpf.engine.writers import Images, Reporter, Writer
from cmpf.errors import CMPFError, TrainingError

logger = logging.getLogger(__name__)

MAX_SKIPPED_STEPS = 10


class Trainer:
    """Trains a model in one process, or in one of several processes of a group.

    Args:
        model: its parameters that require a gradient are trained.
        forward: computes the weighted losses of a batch, whose sum is minimized.
        loader: endless batches; see TrainLoader.
        optimizer: holds exactly the parameters that require a gradient.
        schedule: sets the optimizer's learning rate.
        max_iter: total number of iterations.
        checkpointer: writes and reads checkpoints, in rank 0 only.
        checkpoint_period: iterations between checkpoints; there is also one at the end.
        writers: receive losses and results; empty in ranks other than 0.
        log_period: iterations between log summaries, each the mean over the period.
        evaluate: returns {dataset: {task: {metric: percent}}}; None = no evaluation.
        eval_period: iterations between evaluations; there is also one at the end. 0 = only at the end.
        best_metric: the best weights by this metric are saved as model_best.safetensors; "" = not saved.
        amp: use mixed precision on a GPU.
        clip_norm: maximum L2 norm of all gradients together; math.inf = no clipping.
        amp_dtype: "auto", "bf16" or "fp16".
        accumulation_steps: number of parts into which a batch is split to save memory.
        average: averaged weights, which are evaluated and saved as best and final; None = the model's weights.
        draw: draws images of a batch with the model's predictions when an evaluation is due; None = no images.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        forward: CMPFForward,
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
            forward=forward,
            optimizer=optimizer,
            amp=amp,
            amp_dtype=amp_dtype,
            clip_norm=clip_norm,
            accumulation_steps=accumulation_steps,
        )
        self._reporter = Reporter(writers, log_period=log_period)
        self._position = loader.state_dict()
        self._issues = IssueCounter(allowed=MAX_SKIPPED_STEPS)
        self._saved = False
        self._stopped_by = ""

    def resume(self) -> bool:
        """Loads the newest intact checkpoint; returns False if there is none and training starts at iteration 0."""
        state = distributed.on_main(self.checkpointer.load_newest)
        if state is None:
            return False
        distributed.broadcast_tensors([p for p in self.model.parameters() if p.requires_grad])
        self._load_state(state)
        self._saved = True
        return True

    def train(self) -> TrainingEnd:
        """Trains up to max_iter. On SIGINT, SIGTERM or SIGUSR1, finishes the iteration, saves and returns.

        Raises:
            TrainingError: the output folder holds another run's checkpoints and resume() was not called; losses or
                gradients were not finite ten times in a row, or the model raised a TrainingError (a checkpoint is
                saved, and failed_batch.json names the batch's images); or an image cannot be read (a checkpoint is
                saved).
        """
        if self.iteration == 0 and not self._saved:
            distributed.on_main(self.checkpointer.check_unused)
        if self.iteration < self.max_iter:
            dtype = self.step.precision.dtype
            logger.info("training from iteration %d to %d in %s", self.iteration, self.max_iter, dtype)
        else:
            logger.info("iteration %d of %d: training is already complete", self.iteration, self.max_iter)
        self.model.train()
        self._reporter.start(self.iteration, self.max_iter)
        try:
            with StopRequest() as stop:
                finished = self._loop(stop)
        finally:
            self._reporter.close()
        return TrainingEnd(self.iteration, finished, self._stopped_by, self.evaluations.results)

    def _loop(self, stop: StopRequest) -> bool:
        """Returns True when max_iter is reached, False if any process received a signal before."""
        batches = iter(self.loader)
        while not distributed.any_process(stop.requested):
            if self.evaluations.due(self.iteration):
                try:
                    self._evaluate(stop)
                except Interrupted:  # a checkpoint was saved before the evaluation; resuming evaluates again
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
        if distributed.is_parallel() and not result.issue:
            check_gradients(self.model)
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
        """The next batch; None in all processes if a signal ended the loader's workers in one of them.

        Raises:
            TrainingError: an image or its ground truth cannot be read; a checkpoint is saved.
        """
        batch = unreadable = None
        try:
            batch = next(batches)
        except CMPFError as error:
            unreadable = error
        except RuntimeError:
            # A signal to the process group also ends the loader's workers, which raises a RuntimeError here.
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
        """Counts skipped steps, which are the same in all processes."""
        images = gather_image_names(batch) if result.issue else []
        if self._issues.add(result.issue, iteration=self.iteration, images=images):
            self._issues.in_a_row = 0  # a resumed run starts counting anew
            raise self._failure(
                f"losses or gradients were not finite {MAX_SKIPPED_STEPS} times in a row, the last time in "
                f"iteration {self.iteration} ({result.issue})",
                batch,
            )

    def _failure(self, issue: str, batch: Any) -> TrainingError:
        """Saves the names of the batch's images and a checkpoint; returns the error to raise."""
        images = gather_image_names(batch)
        weights = self.checkpointer.weights_path(self.iteration)
        folder = self.checkpointer.folder
        error = failure(issue, iteration=self.iteration, images=images, folder=folder, weights=weights)
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
        """Saves a checkpoint. All processes must call it."""
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
