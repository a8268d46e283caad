# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Mixed precision: bfloat16 where the GPU has it, else float16 with loss scaling; float32 on the CPU."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def lowest_precision(device: torch.device) -> torch.dtype:
    """The type for the bulk of the arithmetic: bfloat16 or float16 on a GPU, float32 on a CPU."""
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


class MixedPrecision:
    """Autocast and, for float16, the loss scaler.

    Args:
        enabled: False = float32 throughout. On a CPU it is float32 anyway: half precision is slower there.
        device: where the model is.
    """

    def __init__(self, *, enabled: bool, device: torch.device) -> None:
        self._device = device
        self.dtype = lowest_precision(device) if enabled else torch.float32
        self._scaler = torch.amp.GradScaler(device.type, enabled=self.dtype is torch.float16)

    def autocast(self) -> AbstractContextManager[Any]:
        """The context for the forward pass."""
        if self.dtype is torch.float32:
            return nullcontext()
        return torch.autocast(self._device.type, dtype=self.dtype)

    def backward(self, loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
        """Gradients of `loss`, unscaled, in the optimiser's parameters."""
        torch.autograd.backward(self._scaler.scale(loss))
        self._scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Steps, unless the scaler saw an overflow in `backward`; then adapts the scale."""
        self._scaler.step(optimizer)
        self._scaler.update()

    @property
    def expects_overflow(self) -> bool:
        """Whether an infinite gradient is the scaler still looking for its range, not a fault."""
        return self._scaler.is_enabled() and self._scaler.get_scale() > 1.0

    def state_dict(self) -> dict[str, Any]:
        """The scaler's state; empty without one."""
        return self._scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the scaler; a state saved without one leaves it as it is."""
        if state and self._scaler.is_enabled():
            self._scaler.load_state_dict(state)
