# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""One optimiser step, left out where something is not finite."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cmpf.engine.precision import MixedPrecision


@dataclass(frozen=True)
class StepResult:
    """losses: weighted, by name. grad_norm: of all gradients before clipping, NaN where there were none.

    fault: what was not finite, so that the step was left out; "" after a step, and after an overflow that
    float16's loss scaler is expected to meet while it looks for its range.
    """

    losses: dict[str, float]
    grad_norm: float
    fault: str


class TrainStep:
    """Forward, backward, clip, step.

    Args:
        model: `model(batch)` gives a dict of weighted losses.
        optimizer: steps; its parameters' gradients are clipped together.
        amp: mixed precision, see MixedPrecision.
        clip_norm: largest L2 norm of all gradients together; math.inf = no clipping.
    """

    def __init__(
        self, *, model: nn.Module, optimizer: torch.optim.Optimizer, amp: bool, clip_norm: float
    ) -> None:
        self._model = model
        self._optimizer = optimizer
        self._clip_norm = clip_norm
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.device = self._parameters[0].device
        self.precision = MixedPrecision(enabled=amp, device=self.device)

    def __call__(self, batch: Any) -> StepResult:
        """Trains on one batch."""
        with self.precision.autocast():
            losses: dict[str, Tensor] = self._model(batch)
        stacked = torch.stack([loss.float() for loss in losses.values()])
        # One copy from the device for all losses.
        values: dict[str, float] = dict(zip(losses, stacked.detach().tolist(), strict=True))
        self._optimizer.zero_grad(set_to_none=True)
        bad = [f"{name} = {value}" for name, value in values.items() if not math.isfinite(value)]
        if bad:
            more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
            return StepResult(losses=values, grad_norm=math.nan, fault=", ".join(bad[:3]) + more)
        expects_overflow = self.precision.expects_overflow
        self.precision.backward(stacked.sum(), self._optimizer)
        grad_norm = float(torch.nn.utils.clip_grad_norm_(self._parameters, self._clip_norm))
        if math.isfinite(grad_norm) or expects_overflow:
            self.precision.step(self._optimizer)
            return StepResult(losses=values, grad_norm=grad_norm, fault="")
        return StepResult(losses=values, grad_norm=grad_norm, fault=f"gradient norm = {grad_norm}")
