# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Optimizer, learning rate and averaged weights, the same for both tiny encoders."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn


def build_adamw(modules: Iterable[nn.Module], *, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW; only matrices and kernels decay."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    decayed = [p for p in parameters if p.ndim >= 2]
    others = [p for p in parameters if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), foreach=True)


def learning_rate(step: int, *, steps: int, peak: float, warmup: int) -> float:
    """Linear warm-up to the peak, then half a cosine down to a hundredth of it at the last step."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


class Stepper:
    """Backward pass, clipped gradient, learning rate and optimizer step."""

    def __init__(
        self, modules: list[nn.Module], *, steps: int, lr: float, weight_decay: float, warmup: int
    ) -> None:
        self._steps, self._lr, self._warmup = steps, lr, min(warmup, max(1, steps // 4))
        self._optimizer = build_adamw(modules, lr=lr, weight_decay=weight_decay)
        self._parameters: list[Tensor] = [
            p for group in self._optimizer.param_groups for p in group["params"]
        ]
        self._step = 0

    def step(self, loss: Tensor) -> None:
        """One update of the weights."""
        rate = learning_rate(self._step, steps=self._steps, peak=self._lr, warmup=self._warmup)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimizer.step()
        self._step += 1


class AveragedModel:
    """Exponential moving average of a model's parameters; `model` is the averaged copy, in eval mode."""

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._source: list[Tensor] = list(model.parameters())
        self._average: list[Tensor] = list(self.model.parameters())
        self._decay, self._updates = decay, 0

    @torch.no_grad()
    def update(self) -> None:
        """Moves the average towards the model; faster at first, so that random weights are soon forgotten."""
        self._updates += 1
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        torch._foreach_lerp_(self._average, self._source, 1 - decay)
