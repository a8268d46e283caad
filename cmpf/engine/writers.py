# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Writers for training metrics: progress bar, log lines, metrics.json and TensorBoard."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cmpf.common.files import write_text
from cmpf.engine.logs import FILE_ONLY
from cmpf.engine.step import Record, Window

Images = Mapping[str, NDArray[np.uint8]]  # title -> (H, W, 3) RGB


class Writer:
    """Base class of writers; subclasses override the events that they need."""

    def start(self, iteration: int, max_iter: int) -> None:
        """Called when training starts, or resumes after `iteration` iterations."""

    def iteration(self, record: Record) -> None:
        """Called after every iteration."""

    def summary(self, record: Record) -> None:
        """Called at the end of each log period with the mean of its iterations."""

    def results(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Called after an evaluation with {"dataset/task/metric": percent}."""

    def images(self, iteration: int, images: Images) -> None:
        """Called with images of a training batch and the model's predictions."""

    def close(self) -> None:
        """Called when training ends, also after an error."""


class ProgressBar(Writer):
    """A progress bar on the terminal with time left, loss and learning rate."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None

    def start(self, iteration: int, max_iter: int) -> None:
        self._bar = tqdm(total=max_iter, initial=iteration, desc="training", unit="it", dynamic_ncols=True)

    def iteration(self, record: Record) -> None:
        if self._bar is not None:
            self._bar.set_postfix(loss=f"{record.total_loss:.3f}", lr=f"{record.lr:.2e}", refresh=False)
            self._bar.update()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


class LogLines(Writer):
    """Logs one line per summary.

    Args:
        logger: receives the lines.
        file_only: keep the lines off the terminal, where the progress bar is.
    """

    def __init__(self, logger: logging.Logger, *, file_only: bool) -> None:
        self._logger = logger
        self._extra = FILE_ONLY if file_only else None

    def summary(self, record: Record) -> None:
        self._logger.info(format_record(record), extra=self._extra)


class MetricsFile(Writer):
    """Writes metrics.json, one JSON object per line. Resuming drops the lines of iterations that will run again.

    Args:
        path: the file; its folder must exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def start(self, iteration: int, max_iter: int) -> None:
        kept = [line for line in _lines(self._path) if _iteration_of(line) <= iteration]
        write_text(self._path, "".join(f"{line}\n" for line in kept))

    def summary(self, record: Record) -> None:
        self._append(
            {
                "iteration": record.iteration,
                "total_loss": record.total_loss,
                **record.losses,
                "lr": record.lr,
                "grad_norm": record.grad_norm,
                "data_time": record.data_time,
                "time": record.step_time,
                "eta_seconds": record.eta_seconds,
                "max_mem_mb": record.max_memory,
            }
        )

    def results(self, iteration: int, metrics: Mapping[str, float]) -> None:
        # A run that was killed between an evaluation and the next checkpoint repeats the evaluation.
        lines = _lines(self._path)
        kept = [line for line in lines if _iteration_of(line) != iteration or '"total_loss"' in line]
        if len(kept) < len(lines):
            write_text(self._path, "".join(f"{line}\n" for line in kept))
        self._append({"iteration": iteration, **metrics})

    def _append(self, values: dict[str, Any]) -> None:
        """Appends a line; NaN and infinity, which JSON lacks, become null."""
        valid = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(valid) + "\n")


class TensorBoardWriter(Writer):
    """Writes curves, results and images for TensorBoard.

    Args:
        folder: receives the event files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._events: Any = None

    def start(self, iteration: int, max_iter: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._events = SummaryWriter(str(self._folder), purge_step=iteration + 1)

    def summary(self, record: Record) -> None:
        for name, value in curves(record).items():
            self._events.add_scalar(name, value, record.iteration)

    def results(self, iteration: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._events.add_scalar(name, value, iteration)
        self._events.flush()

    def images(self, iteration: int, images: Images) -> None:
        for title, image in images.items():
            self._events.add_image(title, image, iteration, dataformats="HWC")

    def close(self) -> None:
        if self._events is not None:
            self._events.close()


def curves(record: Record) -> dict[str, float]:
    """The values of a summary by curve name, for TensorBoard and Weights & Biases."""
    memory = {} if record.max_memory is None else {"memory/max_mb": record.max_memory}
    return {
        "loss/total": record.total_loss,
        **{f"loss/{name.removeprefix('loss_')}": value for name, value in record.losses.items()},
        "lr": record.lr,
        "grad_norm": record.grad_norm,
        "time/data": record.data_time,
        "time/step": record.step_time,
        **memory,
    }


class Reporter:
    """Sends events to all writers and averages iterations into summaries.

    Args:
        writers: receive losses, results and images.
        log_period: iterations between summaries.
    """

    def __init__(self, writers: Sequence[Writer], *, log_period: int) -> None:
        self._writers = writers
        self._log_period = log_period
        self._window = Window()

    def start(self, iteration: int, max_iter: int) -> None:
        """See Writer.start."""
        for writer in self._writers:
            writer.start(iteration, max_iter)

    def iteration(self, record: Record) -> None:
        """Reports an iteration, and a summary at the end of each log period and of the training."""
        self._window.add(record)
        for writer in self._writers:
            writer.iteration(record)
        if record.iteration % self._log_period == 0 or record.iteration == record.max_iter:
            summary = self._window.summary(record)
            for writer in self._writers:
                writer.summary(summary)

    def results(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """See Writer.results."""
        for writer in self._writers:
            writer.results(iteration, metrics)

    def images(self, iteration: int, images: Images) -> None:
        """See Writer.images."""
        for writer in self._writers:
            writer.images(iteration, images)

    def close(self) -> None:
        """See Writer.close."""
        for writer in self._writers:
            writer.close()

    def state_dict(self) -> dict[str, Any]:
        """See Window.state_dict."""
        return self._window.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict`."""
        self._window.load_state_dict(state)


def build_writers(folder: Path, *, logger: logging.Logger, terminal: bool, tensorboard: bool) -> list[Writer]:
    """The default writers: log lines, metrics.json, a progress bar on a terminal, and optionally TensorBoard.

    Args:
        folder: the run's output folder; must exist. Receives metrics.json and the event files.
        logger: receives the log lines.
        terminal: whether stdout is a terminal: show a progress bar and keep log lines in the file.
        tensorboard: also write TensorBoard event files.
    """
    writers: list[Writer] = [LogLines(logger, file_only=terminal), MetricsFile(folder / "metrics.json")]
    if terminal:
        writers.append(ProgressBar())
    if tensorboard:
        writers.append(TensorBoardWriter(folder))
    return writers


def format_record(record: Record) -> str:
    """`iter 40/1000  eta 0:05:12  loss 12.34  ce 3.1 ...  lr 1.00e-04  data 0.003s  step 0.33s  mem 9 MB`."""
    parts = [
        f"iter {record.iteration}/{record.max_iter}",
        f"eta {timedelta(seconds=round(record.eta_seconds))}",
        f"loss {record.total_loss:.3f}",
        *(f"{name.removeprefix('loss_')} {value:.3f}" for name, value in record.main_losses.items()),
        f"lr {record.lr:.2e}",
        f"data {record.data_time:.3f}s",
        f"step {record.step_time:.3f}s",
    ]
    if record.max_memory is not None:
        parts.append(f"mem {record.max_memory:.0f} MB")
    return "  ".join(parts)


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def _iteration_of(line: str) -> float:
    """The iteration of a line; infinity for a truncated line, so that it is dropped."""
    try:
        return int(json.loads(line)["iteration"])
    except (ValueError, KeyError, TypeError):
        return math.inf
