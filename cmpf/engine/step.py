# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""One optimizer step, left out where something is not finite."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from cmpf.common import distributed
from cmpf.engine.forward import Forward
from cmpf.engine.precision import MixedPrecision
from cmpf.engine.timing import Stopwatch
from cmpf.errors import TrainingError


@dataclass(frozen=True)
class StepResult:
    """losses: weighted, by name, the mean over processes. grad_norm: of all gradients before clipping, NaN where
    there were none.

    issue: what was not finite, so that the step was left out; "" after a step, and after an overflow that
    float16's loss scaler is expected to meet while it looks for its range.
    """

    losses: dict[str, float]
    grad_norm: float
    issue: str


class TrainStep:
    """Forward, backward, clip, step.

    With several processes all of them take the same step or leave it out together.

    Args:
        forward: gives weighted losses.
        optimizer: steps; its parameters' gradients are clipped together.
        amp: mixed precision, see MixedPrecision.
        amp_dtype: its type.
        clip_norm: largest L2 norm of all gradients together; math.inf = no clipping.
        accumulation_steps: parts that a batch is cut into, one after the other, to save memory.
    """

    def __init__(
        self,
        *,
        forward: Forward,
        optimizer: torch.optim.Optimizer,
        amp: bool,
        clip_norm: float,
        amp_dtype: str = "auto",
        accumulation_steps: int = 1,
    ) -> None:
        self._forward = forward
        self._optimizer = optimizer
        self._clip_norm = clip_norm
        self._accumulation_steps = accumulation_steps
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.device = self._parameters[0].device
        self.precision = MixedPrecision(enabled=amp, device=self.device, dtype=amp_dtype)
        self.watch = Stopwatch(self.device)

    def __call__(self, batch: Any) -> StepResult:
        """Trains on one batch.

        Raises:
            TrainingError: the model reports an issue, in this process or in another one.
        """
        self._optimizer.zero_grad(set_to_none=True)
        loss, values = self._losses(batch)
        bad = [f"{name} = {value}" for name, value in values.items() if not math.isfinite(value)]
        if bad:
            more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
            return StepResult(losses=values, grad_norm=math.nan, issue=", ".join(bad[:3]) + more)
        with self.watch("backward"):
            self.precision.backward(loss)
        with self.watch("optimizer"):
            return self._update(values)

    def _losses(self, batch: Any) -> tuple[Tensor, dict[str, float]]:
        """The loss of the last part, whose backward pass is still to come, and all losses of the whole batch."""
        *earlier, last = split(batch, self._accumulation_steps)
        normalizers = self._forward.normalizers(batch)
        error, done, losses = None, None, {}
        try:
            with self._forward.no_sync():
                for part in earlier:
                    losses = self._part(part, normalizers)
                    stacked = _stack(losses)
                    done = stacked.detach() if done is None else done + stacked.detach()
                    with self.watch("backward"):
                        self.precision.backward(stacked.sum())
            losses = self._part(last, normalizers)
        except TrainingError as issue:
            error = issue
        distributed.raise_together(error)
        stacked = _stack(losses)
        total = distributed.all_reduce_mean(stacked.detach() if done is None else done + stacked.detach())
        # One copy from the device for all losses.
        return stacked.sum(), dict(zip(losses, total.tolist(), strict=True))

    def _part(self, part: Any, normalizers: Any) -> dict[str, Tensor]:
        with self.precision.autocast(), self.watch("decoder"):
            return self._forward(part, normalizers)

    def _update(self, values: dict[str, float]) -> StepResult:
        expects_overflow = self.precision.expects_overflow
        self.precision.unscale(self._optimizer)
        grad_norm = float(torch.nn.utils.clip_grad_norm_(self._parameters, self._clip_norm))
        if math.isfinite(grad_norm) or expects_overflow:
            self.precision.step(self._optimizer)
            return StepResult(losses=values, grad_norm=grad_norm, issue="")
        return StepResult(losses=values, grad_norm=grad_norm, issue=f"gradient norm = {grad_norm}")


def split(batch: Any, parts: int) -> list[Any]:
    """A batch in so many parts of equal length, or one more sample in the first ones; none is empty.

    Raises:
        TrainingError: fewer samples than parts.
    """
    if parts == 1:
        return [batch]
    if not isinstance(batch, Sequence) or len(batch) < parts:
        count = len(batch) if isinstance(batch, Sequence) else 1
        raise TrainingError(
            f"SOLVER.ACCUMULATION_STEPS {parts}: each process has {count} images of a batch, which cannot be "
            "cut into so many parts; lower it, or raise SOLVER.IMS_PER_BATCH"
        )
    smaller, larger = divmod(len(batch), parts)
    ends = [smaller * part + min(part, larger) for part in range(parts + 1)]
    return [batch[start:end] for start, end in pairwise(ends)]


def _stack(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack([loss.float() for loss in losses.values()])
