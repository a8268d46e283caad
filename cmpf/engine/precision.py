# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Mixed precision: bfloat16 where the GPU has it, else float16 with loss scaling; float32 on the CPU."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from cmpf.errors import TrainingError

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}  # beside "auto"


def lowest_precision(device: torch.device) -> torch.dtype:
    """The type for the bulk of the arithmetic: bfloat16 or float16 on a GPU, float32 on a CPU."""
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


class MixedPrecision:
    """Autocast and, for float16, the loss scaler.

    Args:
        enabled: False = float32 throughout.
        device: where the model is.
        dtype: "bf16", "fp16", or "auto" = see lowest_precision; on a CPU that is float32, as half precision is
            slower there.
    Raises:
        TrainingError: bf16 on a GPU that has no bfloat16.
    """

    def __init__(self, *, enabled: bool, device: torch.device, dtype: str = "auto") -> None:
        self._device = device
        wanted = lowest_precision(device) if dtype == "auto" else DTYPES[dtype]
        self.dtype = wanted if enabled else torch.float32
        if self.dtype is torch.bfloat16 and device.type == "cuda" and not torch.cuda.is_bf16_supported():
            raise TrainingError(
                f"SOLVER.AMP.DTYPE bf16: {torch.cuda.get_device_name(device)} has no bfloat16; use auto or fp16"
            )
        self._scaler = torch.amp.GradScaler(device.type, enabled=self.dtype is torch.float16)

    def autocast(self) -> AbstractContextManager[Any]:
        """The context for the forward pass."""
        if self.dtype is torch.float32:
            return nullcontext()
        return torch.autocast(self._device.type, dtype=self.dtype)

    def backward(self, loss: Tensor) -> None:
        """Adds the gradients of `loss`, still scaled, to those that are there."""
        torch.autograd.backward(self._scaler.scale(loss))

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Takes the scale out of the gradients; once, after the last `backward` of a step."""
        self._scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Steps, unless the scaler saw an overflow in `unscale`; then adapts the scale."""
        self._scaler.step(optimizer)
        self._scaler.update()

    @property
    def expects_overflow(self) -> bool:
        """Whether an infinite gradient is the scaler still looking for its range, not an issue."""
        return self._scaler.is_enabled() and self._scaler.get_scale() > 1.0

    def state_dict(self) -> dict[str, Any]:
        """The scaler's state; empty without one."""
        return self._scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the scaler; a state saved without one leaves it as it is."""
        if state and self._scaler.is_enabled():
            self._scaler.load_state_dict(state)
