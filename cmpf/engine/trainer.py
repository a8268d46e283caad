# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The training loop: an interrupted and resumed run ends with the very weights of an uninterrupted one."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from cmpf.engine.best_metric import BestMetric, Results, flatten_results, plain_results
from cmpf.engine.checkpoints import Checkpointer
from cmpf.engine.failures import FaultCounter, record_failure
from cmpf.engine.interrupts import Interrupted, StopRequest
from cmpf.engine.logs import FILE_ONLY
from cmpf.engine.optimizer import check_optimizer
from cmpf.engine.records import Record, Window, max_memory
from cmpf.engine.schedule import Schedule
from cmpf.engine.seeding import preserved_rng, rng_state, set_rng_state
from cmpf.engine.step import TrainStep
from cmpf.engine.writers import Writer
from cmpf.errors import TrainingError

logger = logging.getLogger(__name__)

FAULTS_ALLOWED = 10


class TrainLoader(Protocol):
    """Endless batches whose position can be saved: after `load_state_dict`, `iter` gives the next batch.

    It draws nothing from the global random generators, or a resumed run would draw other numbers.
    """

    def __iter__(self) -> Iterator[Any]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Outcome:
    """How a call of Trainer.train ended.

    iteration: iterations done in all. finished: max_iter was reached and evaluated; otherwise `stopped_by`
    names the signal. results: the latest evaluation, None where there was none.
    """

    iteration: int
    finished: bool
    stopped_by: str
    results: Results | None


class Trainer:
    """Trains a model.

    Args:
        model: `model(batch)` in training mode gives a dict of weighted losses, whose sum is minimised.
        loader: endless batches; see TrainLoader.
        optimizer: holds exactly the parameters that require a gradient.
        schedule: drives the optimizer's learning rate.
        max_iter: iterations in all.
        checkpointer: where checkpoints go.
        checkpoint_period: a checkpoint every so many iterations, and at the end.
        writers: hear about losses and results.
        log_period: iterations of which a summary is the mean.
        evaluate: gives {dataset: {task: {metric: percent}}}; None = no evaluation.
        eval_period: an evaluation every so many iterations, and at the end; 0 = at the end only.
        best_metric: the best weights by this metric are kept as model_best.safetensors; "" = not kept.
        amp: mixed precision on a GPU.
        clip_norm: largest L2 norm of all gradients together; math.inf = no clipping.
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
    ) -> None:
        check_optimizer(optimizer, model)
        self.model = model
        self.loader = loader
        self.optimizer = optimizer
        self.schedule = schedule
        self.max_iter = max_iter
        self.checkpointer = checkpointer
        self.checkpoint_period = checkpoint_period
        self.writers = writers
        self.log_period = log_period
        self.evaluate = evaluate
        self.eval_period = eval_period
        self.best = BestMetric(best_metric) if best_metric else None
        self.iteration = 0
        self.results: Results | None = None
        self._step = TrainStep(model=model, optimizer=optimizer, amp=amp, clip_norm=clip_norm)
        self._window = Window()
        self._evaluated_at = 0
        self._faults = FaultCounter(allowed=FAULTS_ALLOWED)
        self._saved = False

    def resume(self) -> bool:
        """Goes to the newest whole checkpoint; False where there is none and training starts at 0."""
        state = self.checkpointer.load_newest()
        if state is None:
            return False
        self._load_state(state)
        self._saved = True
        return True

    def train(self) -> Outcome:
        """Trains up to max_iter, or until SIGINT, SIGTERM or SIGUSR1: finishes the iteration and saves.

        Raises:
            TrainingError: OUTPUT_DIR holds another run's checkpoints and resume() was not called; losses or
                gradients are not finite ten times in a row, or the model reports a fault: then a checkpoint
                is left, and failed_batch.json names the pictures of the batch.
        """
        if self.iteration == 0 and not self._saved and (earlier := self.checkpointer.iterations()):
            raise TrainingError(
                f"{self.checkpointer.folder} holds checkpoints of an earlier run (up to iteration "
                f"{earlier[-1]}). Go on with it by --resume, or choose another OUTPUT_DIR"
            )
        logger.info(
            "training from iteration %d to %d in %s",
            self.iteration,
            self.max_iter,
            self._step.precision.dtype,
        )
        self.model.train()
        for writer in self.writers:
            writer.start(self.iteration, self.max_iter)
        try:
            with StopRequest() as stop:
                finished = self._loop(stop)
        finally:
            for writer in self.writers:
                writer.close()
        return Outcome(self.iteration, finished, stop.signal_name, self.results)

    def _loop(self, stop: StopRequest) -> bool:
        """True when max_iter was reached, False when a signal came before."""
        batches = iter(self.loader)
        while not stop.requested:
            if self.evaluate is not None and self._evaluation_due():
                try:
                    self._evaluate(self.evaluate, stop)
                except Interrupted:  # the checkpoint before the evaluation is there; resuming evaluates again
                    return False
            elif self.iteration >= self.max_iter:
                if not self._saved:
                    self.save()
                self.checkpointer.save_named("final")
                return True
            else:
                self._run_iteration(batches, stop)
        if not self._saved:
            self.save()
        return False

    def _run_iteration(self, batches: Iterator[Any], stop: StopRequest) -> None:
        started = time.perf_counter()
        try:
            batch = next(batches)
        except RuntimeError:
            # A signal to the whole process group ends the loader's workers too; then the stop is what counts.
            if stop.requested:
                return
            raise
        fetched = time.perf_counter()
        self._saved = False
        lr = self.schedule.learning_rate
        try:
            result = self._step(batch)
        except TrainingError as error:
            raise self._failure(f"iteration {self.iteration + 1}: {error}", batch) from error
        self.iteration += 1
        self.schedule.step()
        if self._faults.add(result.fault, iteration=self.iteration, batch=batch):
            self._faults.in_a_row = 0  # so that a resumed run gets as many again
            raise self._failure(
                f"losses or gradients were not finite {FAULTS_ALLOWED} times in a row, the last time in "
                f"iteration {self.iteration} ({result.fault})",
                batch,
            )
        self._report(
            Record(
                iteration=self.iteration,
                max_iter=self.max_iter,
                total_loss=sum(result.losses.values()),
                losses=result.losses,
                lr=lr,
                grad_norm=result.grad_norm,
                data_time=fetched - started,
                step_time=time.perf_counter() - fetched,
                max_memory=max_memory(self._step.device),
            )
        )
        if self.iteration % self.checkpoint_period == 0 or self._evaluation_due():
            self.save()

    def _failure(self, fault: str, batch: Any) -> TrainingError:
        """Saves the batch's names and a checkpoint, and gives the error that tells of both."""
        folder = self.checkpointer.folder
        pictures = record_failure(folder, iteration=self.iteration, fault=fault, batch=batch)
        self.save()
        return TrainingError(
            f"{fault}. {pictures}. Checkpoint: {self.checkpointer.weights_path(self.iteration)}. Look at "
            "these pictures or lower the learning rate; --resume goes on with the next batch"
        )

    def _report(self, record: Record) -> None:
        self._window.add(record)
        for writer in self.writers:
            writer.iteration(record)
        if self.iteration % self.log_period == 0 or self.iteration == self.max_iter:
            summary = self._window.summary(record)
            for writer in self.writers:
                writer.summary(summary)

    def _evaluation_due(self) -> bool:
        if self.evaluate is None or self._evaluated_at == self.iteration:
            return False
        period = self.eval_period
        return self.iteration >= self.max_iter or (period > 0 and self.iteration % period == 0)

    def _evaluate(self, evaluate: Callable[[], Results], stop: StopRequest) -> None:
        """Leaves no trace in the random generators: evaluating more or less often changes no weight."""
        with preserved_rng(), stop.at_once():
            self.model.eval()
            try:
                results = evaluate()
            finally:
                self.model.train()
        metrics = flatten_results(results)
        for writer in self.writers:
            writer.results(self.iteration, metrics)
        if self.best is not None and self.best.update(self.iteration, metrics):
            self.checkpointer.save_named("best")
        self.results = plain_results(results)
        self._evaluated_at = self.iteration
        self.save()

    def save(self) -> None:
        """Writes a checkpoint of this very moment."""
        path = self.checkpointer.save(self.iteration, self._state())
        logger.info("checkpoint written: %s", path, extra=FILE_ONLY)
        self._saved = True

    def _state(self) -> dict[str, Any]:
        return {
            "iteration": self.iteration,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "loader": self.loader.state_dict(),
            "precision": self._step.precision.state_dict(),
            "rng": rng_state(),
            "window": self._window.state_dict(),
            "best": self.best.state_dict() if self.best is not None else None,
            "evaluated_at": self._evaluated_at,
            "faults_in_a_row": self._faults.in_a_row,
            "results": self.results,
        }

    def _load_state(self, state: Mapping[str, Any]) -> None:
        self.iteration = state["iteration"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.loader.load_state_dict(state["loader"])
        self._step.precision.load_state_dict(state["precision"])
        set_rng_state(state["rng"])
        self._window.load_state_dict(state["window"])
        if self.best is not None and state["best"] is not None:
            self.best.load_state_dict(state["best"])
        self._evaluated_at = state["evaluated_at"]
        self._faults.in_a_row = state["faults_in_a_row"]
        self.results = state["results"]
