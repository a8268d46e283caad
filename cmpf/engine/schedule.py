# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Learning rate as a function of the iteration: multi-step, cosine or polynomial, with a linear warm-up.

The function has no memory, so a resumed run has the learning rate of an uninterrupted one by construction.
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
        optimizer: its present learning rates are the base rates.
        factor: iteration (0 = the first) -> factor of the base learning rate.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, *, factor: Callable[[int], float]) -> None:
        self._optimizer = optimizer
        self._factor = factor
        self._iteration = 0
        self._base_rates: list[float] = [float(group["lr"]) for group in optimizer.param_groups]
        self._apply()

    def step(self) -> None:
        """Goes on to the next iteration's learning rate."""
        self._iteration += 1
        self._apply()

    @property
    def learning_rate(self) -> float:
        """Learning rate of the first group."""
        return float(self._optimizer.param_groups[0]["lr"])

    def state_dict(self) -> dict[str, Any]:
        """Iteration and base rates, in plain numbers."""
        return {"iteration": self._iteration, "base_rates": list(self._base_rates)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes to where `state_dict` was taken."""
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
    """A schedule by the name that Detectron2's users know.

    Args:
        name: "WarmupMultiStepLR", "WarmupCosineLR" or "WarmupPolyLR".
        max_iter: where the cosine and the polynomial reach zero.
        steps, gamma: multi-step only: iterations at which the rate is multiplied by gamma.
        warmup_iters, warmup_factor: the factor rises linearly from warmup_factor at 0 to 1 at warmup_iters.
        power: polynomial only.
    Raises:
        ConfigError: unknown name, or numbers that make no schedule.
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
    """Straight line from `start` at iteration 0 to 1 at iteration `iters`, then 1."""
    if iteration >= iters:
        return 1.0
    return start + (1.0 - start) * iteration / iters


def multi_step(iteration: int, *, steps: Sequence[int], gamma: float) -> float:
    """gamma to the power of the number of steps at or before `iteration`; `steps` ascending."""
    return float(gamma ** bisect_right(steps, iteration))


def cosine(iteration: int, *, max_iter: int) -> float:
    """Half a cosine wave from 1 at iteration 0 to 0 at `max_iter`."""
    return 0.5 * (1.0 + math.cos(math.pi * min(iteration, max_iter) / max_iter))


def polynomial(iteration: int, *, max_iter: int, power: float) -> float:
    """(1 - iteration / max_iter) to a power, 0 from `max_iter` on."""
    return float((1.0 - min(iteration, max_iter) / max_iter) ** power)
