# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from cmpf.encoders.tiny_training.optimization import AveragedModel, Stepper, build_adamw, learning_rate


def test_the_rate_climbs_in_a_line_then_falls_along_a_cosine_to_a_hundredth() -> None:
    rates = [learning_rate(step, steps=104, peak=1.0, warmup=4) for step in range(104)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    # Half-way down: 0.01 + 0.99 / 2
    assert rates[54] == pytest.approx(0.505)
    # The last of 100 steps after warm-up: 0.01 + 0.99 * (1 + cos(0.99 pi)) / 2
    assert rates[-1] == pytest.approx(0.01 + 0.99 * 0.5 * (1 + math.cos(0.99 * math.pi)))


def test_only_matrices_decay() -> None:
    decayed, others = build_adamw([nn.Linear(3, 2)], lr=1.0, weight_decay=0.1).param_groups
    assert [tuple(p.shape) for p in decayed["params"]] == [(2, 3)]
    assert decayed["weight_decay"] == 0.1
    assert [tuple(p.shape) for p in others["params"]] == [(2,)]
    assert others["weight_decay"] == 0


def test_steps_lower_a_loss() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(3, 1), torch.ones(4, 3)
    stepper = Stepper([layer], steps=30, lr=0.1, weight_decay=0, warmup=2)
    first = layer(x).square().mean().item()
    for _ in range(30):
        stepper.step(layer(x).square().mean())
    assert layer(x).square().mean().item() < 0.1 * first


def test_the_average_lags_behind_the_model_and_takes_no_gradient() -> None:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(layer.weight)
    average = AveragedModel(layer, decay=0.9)
    nn.init.ones_(layer.weight)
    average.update()
    # First update: decay min(0.9, 2 / 11), so the average moves by 9 / 11.
    assert next(average.model.parameters()).item() == pytest.approx(9 / 11)
    assert not next(average.model.parameters()).requires_grad
    assert not average.model.training
