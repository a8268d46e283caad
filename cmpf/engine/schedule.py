# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Learning rate schedules with linear warm-up: multi-step, cosine or polynomial.

The rate is a pure function of the iteration, so a resumed run has the rates of an uninterrupted one.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any

import torch

from cmpf.errors import ConfigError

NAMES = ("WarmupMultiStepLR", "WarmupCosineLR", "WarmupPolyLR")


class Schedule:
    """Sets the learning rate of every group to its base rate times `factor(iteration)`.

    Args:
        optimizer: its current learning rates are the base rates.
        factor: maps an iteration (from 0) to a factor of the base rate.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, *, factor: Callable[[int], float]) -> None:
        self._optimizer = optimizer
        self._factor = factor
        self._iteration = 0
        self._base_rates: list[float] = [float(group["lr"]) for group in optimizer.param_groups]
        self._apply()

    def step(self) -> None:
        """Advances to the next iteration's learning rate."""
        self._iteration += 1
        self._apply()

    @property
    def learning_rate(self) -> float:
        """Learning rate of the first parameter group."""
        return float(self._optimizer.param_groups[0]["lr"])

    def state_dict(self) -> dict[str, Any]:
        """Iteration and base rates as Python numbers."""
        return {"iteration": self._iteration, "base_rates": list(self._base_rates)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict`."""
        self._iteration = int(state["iteration"])
        self._base_rates = [float(rate) for rate in state["base_rates"]]
        self._apply()

    def _apply(self) -> None:
        factor = self._factor(self._iteration)
        for group, base in zip(self._optimizer.param_groups, self._base_rates, strict=True):
            group["lr"] = base * factor


def build_schedule(
    name: str,
    optimizer: torch.optim.Optimizer,
    *,
    max_iter: int,
    steps: Sequence[int],
    gamma: float,
    warmup_iters: int,
    warmup_factor: float,
    power: float = 0.9,
) -> Schedule:
    """Builds a schedule by its Detectron2 name.

    Args:
        name: "WarmupMultiStepLR", "WarmupCosineLR" or "WarmupPolyLR".
        optimizer: its learning rates are the base rates.
        max_iter: iteration at which the cosine and the polynomial reach zero.
        steps: multi-step only: ascending iterations at which the rate is multiplied by gamma.
        gamma: multi-step only.
        warmup_iters: iterations of the linear warm-up from warmup_factor to 1.
        warmup_factor: factor at iteration 0.
        power: exponent of the polynomial.
    Raises:
        ConfigError: the name is unknown, max_iter is not positive, or steps do not ascend.
    """
    if name not in NAMES:
        raise ConfigError(f"learning rate schedule {name!r} is not known; choose one of {', '.join(NAMES)}")
    if max_iter <= 0:
        raise ConfigError(f"a schedule needs max_iter > 0, got {max_iter}")
    if list(steps) != sorted(steps):
        raise ConfigError(f"the steps of a schedule must ascend, got {list(steps)}")

    def factor(iteration: int) -> float:
        rise = warmup(iteration, iters=warmup_iters, start=warmup_factor)
        if name == "WarmupCosineLR":
            return rise * cosine(iteration, max_iter=max_iter)
        if name == "WarmupPolyLR":
            return rise * polynomial(iteration, max_iter=max_iter, power=power)
        return rise * multi_step(iteration, steps=steps, gamma=gamma)

    return Schedule(optimizer, factor=factor)


def warmup(iteration: int, *, iters: int, start: float) -> float:
    """Rises linearly from `start` at iteration 0 to 1 at iteration `iters`, then stays 1."""
    if iteration >= iters:
        return 1.0
    return start + (1.0 - start) * iteration / iters


def multi_step(iteration: int, *, steps: Sequence[int], gamma: float) -> float:
    """gamma ** (number of steps at or before `iteration`); `steps` must ascend."""
    return float(gamma ** bisect_right(steps, iteration))


def cosine(iteration: int, *, max_iter: int) -> float:
    """Half a cosine period, from 1 at iteration 0 to 0 at `max_iter`."""
    return 0.5 * (1.0 + math.cos(math.pi * min(iteration, max_iter) / max_iter))


def polynomial(iteration: int, *, max_iter: int, power: float) -> float:
    """(1 - iteration / max_iter) ** power; 0 from `max_iter` on."""
    return float((1.0 - min(iteration, max_iter) / max_iter) ** power)
