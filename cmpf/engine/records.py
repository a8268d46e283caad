# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What is measured in an iteration, and its mean over a window."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Record:
    """One iteration, or the mean of several.

    iteration: iterations done, 1..max_iter. total_loss and its parts `losses` are weighted. grad_norm: of the
    whole model before clipping. Times in seconds; memory in MiB, None where the system does not tell.
    """

    iteration: int
    max_iter: int
    total_loss: float
    losses: dict[str, float]
    lr: float
    grad_norm: float
    data_time: float
    step_time: float
    max_memory: float | None

    @property
    def eta_seconds(self) -> float:
        """Time left at this record's pace."""
        return (self.max_iter - self.iteration) * (self.data_time + self.step_time)

    @property
    def main_losses(self) -> dict[str, float]:
        """Losses of the last head: those whose name has no number at its end."""
        return {name: value for name, value in self.losses.items() if not name.rsplit("_", 1)[-1].isdigit()}


class Window:
    """Collects records and gives their mean."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = {}

    def add(self, record: Record) -> None:
        """Takes one iteration in."""
        measured = {
            "total_loss": record.total_loss,
            "grad_norm": record.grad_norm,
            "data_time": record.data_time,
            "step_time": record.step_time,
            **{f"loss/{name}": value for name, value in record.losses.items()},
        }
        for name, value in measured.items():
            self._values.setdefault(name, []).append(value)

    def summary(self, latest: Record) -> Record:
        """The mean since the last summary, with the latest iteration, rate and memory; starts anew."""
        means = {name: sum(values) / len(values) for name, values in self._values.items()}
        self._values = {}
        return Record(
            iteration=latest.iteration,
            max_iter=latest.max_iter,
            total_loss=means["total_loss"],
            losses={name[5:]: mean for name, mean in means.items() if name.startswith("loss/")},
            lr=latest.lr,
            grad_norm=means["grad_norm"],
            data_time=means["data_time"],
            step_time=means["step_time"],
            max_memory=latest.max_memory,
        )

    def state_dict(self) -> dict[str, Any]:
        """The values collected so far, so that a resumed run logs the means of an uninterrupted one."""
        return {name: list(values) for name, values in self._values.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up where `state_dict` was called."""
        self._values = {name: list(values) for name, values in state.items()}


def max_memory(device: torch.device) -> float | None:
    """Peak memory in MiB: of the GPU where the model is on one, else of this process; None where unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
