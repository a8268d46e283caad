# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""One training step in mixed precision, skipped if losses or gradients are not finite, and its measurements."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.profiler import record_function

from cmpf.common import distributed
from cmpf.engine.forward import CMPFForward
from cmpf.errors import TrainingError, first_few

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}  # SOLVER.AMP.DTYPE other than "auto"


@dataclass(frozen=True)
class StepResult:
    """Result of one training step.

    Attributes:
        losses: weighted losses by name, mean over processes.
        grad_norm: L2 norm of all gradients before clipping; NaN if there was no backward pass.
        issue: what was not finite, so that the step was skipped; "" after a step, also one that float16's scaler skips.
    """

    losses: dict[str, float]
    grad_norm: float
    issue: str


class TrainStep:
    """Forward, backward, gradient clipping and optimizer step.

    All processes take a step or skip it together.

    Args:
        forward: computes weighted losses.
        optimizer: the gradients of its parameters are clipped together.
        amp: use mixed precision, see MixedPrecision.
        clip_norm: maximum L2 norm of all gradients together; math.inf = no clipping.
        amp_dtype: dtype of mixed precision: "auto", "bf16" or "fp16".
        accumulation_steps: number of parts into which a batch is split, run one after the other to save memory.
    """

    def __init__(
        self,
        *,
        forward: CMPFForward,
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

    def __call__(self, batch: Any) -> StepResult:
        """Trains on one batch.

        Raises:
            TrainingError: the model reports an issue, in this process or in another one.
        """
        self._optimizer.zero_grad(set_to_none=True)
        loss, values = self._losses(batch)
        not_finite = [f"{name} = {value}" for name, value in values.items() if not math.isfinite(value)]
        if not_finite:
            return StepResult(losses=values, grad_norm=math.nan, issue=first_few(not_finite, 3))
        with record_function("backward"):
            self.precision.backward(loss)
        with record_function("optimizer"):
            return self._update(values)

    def _losses(self, batch: Any) -> tuple[Tensor, dict[str, float]]:
        """Total loss of the last part, still without backward pass, and mean losses of the whole batch."""
        *earlier, last = split(batch, self._accumulation_steps)
        normalizers = self._forward.normalizers(batch)
        error, accumulated, losses = None, None, {}
        try:
            with self._forward.no_sync():
                for part in earlier:
                    losses = self._part_losses(part, normalizers)
                    stacked = _stack(losses)
                    accumulated = stacked.detach() if accumulated is None else accumulated + stacked.detach()
                    with record_function("backward"):
                        self.precision.backward(stacked.sum())
            losses = self._part_losses(last, normalizers)
        except TrainingError as issue:
            error = issue
        distributed.raise_together(error)
        stacked = _stack(losses)
        total = stacked.detach() if accumulated is None else accumulated + stacked.detach()
        mean = distributed.all_reduce_mean(total)
        return stacked.sum(), dict(zip(losses, mean.tolist(), strict=True))

    def _part_losses(self, part: Any, normalizers: Any) -> dict[str, Tensor]:
        with self.precision.autocast(), record_function("decoder"):
            return self._forward(part, normalizers)

    def _update(self, values: dict[str, float]) -> StepResult:
        expects_overflow = self.precision.expects_overflow
        self.precision.unscale(self._optimizer)
        grad_norm = float(torch.nn.utils.clip_grad_norm_(self._parameters, self._clip_norm))
        if math.isfinite(grad_norm) or expects_overflow:
            self.precision.step(self._optimizer)
            return StepResult(losses=values, grad_norm=grad_norm, issue="")
        return StepResult(losses=values, grad_norm=grad_norm, issue=f"gradient norm = {grad_norm}")


def split(batch: Sequence[Any], parts: int) -> list[Sequence[Any]]:
    """Splits a batch into non-empty parts; the first ones have one sample more if it does not divide evenly.

    Raises:
        TrainingError: there are fewer samples than parts.
    """
    if parts == 1:
        return [batch]
    if len(batch) < parts:
        raise TrainingError(
            f"SOLVER.ACCUMULATION_STEPS {parts}: each process has {len(batch)} images of a batch, which cannot be "
            "cut into so many parts; lower it, or raise SOLVER.IMS_PER_BATCH"
        )
    smaller, larger = divmod(len(batch), parts)
    ends = [smaller * part + min(part, larger) for part in range(parts + 1)]
    return [batch[start:end] for start, end in pairwise(ends)]


def _stack(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack([loss.float() for loss in losses.values()])


def lowest_precision(device: torch.device) -> torch.dtype:
    """The dtype for autocast: bfloat16 if the GPU supports it natively, else float16; float32 on a CPU."""
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


class MixedPrecision:
    """Autocast and, for float16, the loss scaler.

    Args:
        enabled: False = float32 throughout.
        device: device of the model.
        dtype: "bf16", "fp16", or "auto" = see lowest_precision: float32 on a CPU, where half precision is slower.
    Raises:
        TrainingError: bf16 was requested on a GPU without bfloat16.
    """

    def __init__(self, *, enabled: bool, device: torch.device, dtype: str = "auto") -> None:
        self._device = device
        requested = lowest_precision(device) if dtype == "auto" else DTYPES[dtype]
        self.dtype = requested if enabled else torch.float32
        if self.dtype is torch.bfloat16 and device.type == "cuda" and not torch.cuda.is_bf16_supported():
            raise TrainingError(
                f"SOLVER.AMP.DTYPE bf16: {torch.cuda.get_device_name(device)} has no bfloat16; use auto or fp16"
            )
        self._scaler = torch.amp.GradScaler(device.type, enabled=self.dtype is torch.float16)

    def autocast(self) -> AbstractContextManager[Any]:
        """The autocast context for the forward pass."""
        if self.dtype is torch.float32:
            return nullcontext()
        return torch.autocast(self._device.type, dtype=self.dtype)

    def backward(self, loss: Tensor) -> None:
        """Accumulates the scaled gradients of `loss`."""
        torch.autograd.backward(self._scaler.scale(loss))

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Unscales the gradients; call it once per step, after the last `backward`."""
        self._scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Steps the optimizer unless `unscale` found an overflow, then updates the scale."""
        self._scaler.step(optimizer)
        self._scaler.update()

    @property
    def expects_overflow(self) -> bool:
        """Whether an infinite gradient is normal, because the scaler can still lower its scale."""
        return self._scaler.is_enabled() and self._scaler.get_scale() > 1.0

    def state_dict(self) -> dict[str, Any]:
        """The scaler's state; empty if there is no scaler."""
        return self._scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the scaler; an empty state is ignored."""
        if state and self._scaler.is_enabled():
            self._scaler.load_state_dict(state)


@dataclass(frozen=True)
class Record:
    """Measurements of one iteration, or their mean over several.

    Attributes:
        iteration: completed iterations, 1 .. max_iter.
        max_iter: total number of iterations.
        total_loss: sum of the weighted losses.
        losses: weighted losses by name.
        lr: learning rate of the first parameter group.
        grad_norm: L2 norm of all gradients before clipping.
        data_time: seconds spent waiting for the batch.
        step_time: seconds of the training step.
        max_memory: peak memory in MiB; None if unknown.
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
        """Seconds left at this record's speed."""
        return (self.max_iter - self.iteration) * (self.data_time + self.step_time)

    @property
    def main_losses(self) -> dict[str, float]:
        """Losses of the last decoder layer: those whose name does not end in a number."""
        return {name: value for name, value in self.losses.items() if not name.rsplit("_", 1)[-1].isdigit()}


class Window:
    """Collects records and averages them."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = {}

    def add(self, record: Record) -> None:
        """Adds one iteration."""
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
        """The mean since the last summary, with the latest iteration, rate and memory; clears the window."""
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
        """The values collected since the last summary, so that a resumed run logs the same means."""
        return {name: list(values) for name, values in self._values.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict`."""
        self._values = {name: list(values) for name, values in state.items()}


def max_memory(device: torch.device) -> float | None:
    """Peak memory in MiB: allocated on the GPU, or resident in this process on a CPU; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
