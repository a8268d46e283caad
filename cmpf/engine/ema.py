# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Exponential moving average of the trained weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class WeightAverage:
    """Follows the weights: average = d * average + (1 - d) * weights after each step.

    d rises with the number of steps n as (1 + n) / (10 + n), up to `decay`: the average of a short training is not
    held back by the weights that it began with.

    Args:
        model: parameters that require a gradient are averaged.
        decay: 0 (the weights themselves) .. below 1.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self._decay = decay
        self._weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._average = {name: p.detach().clone() for name, p in self._weights.items()}
        self._steps = 0

    @torch.no_grad()
    def update(self) -> None:
        """Takes the weights of now in."""
        self._steps += 1
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        torch._foreach_lerp_(list(self._average.values()), list(self._weights.values()), 1.0 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the model has the averaged weights; afterwards its own again, to the bit."""
        own = {name: p.detach().clone() for name, p in self._weights.items()}
        self._set(self._average)
        try:
            yield
        finally:
            self._set(own)

    def state_dict(self) -> dict[str, Any]:
        """The average by name, and the number of steps."""
        return {"steps": self._steps, "average": dict(self._average)}

    @torch.no_grad()
    def resume(self, state: Mapping[str, Any] | None) -> None:
        """Restores `state_dict`; None, of a training without average, begins at the weights of now."""
        self._steps = 0 if state is None else int(state["steps"])
        values = self._weights if state is None else state["average"]
        for name, average in self._average.items():
            average.copy_(values[name])

    @torch.no_grad()
    def _set(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self._weights.items():
            parameter.copy_(values[name])
