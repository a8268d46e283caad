# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import pytest
import torch
from torch import nn

from cmpf.engine.optimizer import build_optimizer, check_optimizer
from cmpf.errors import TrainingError


class Parts(nn.Module):
    """One parameter of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 3)
        self.group_norm = nn.GroupNorm(1, 3)
        self.layer_norm = nn.LayerNorm(3)
        self.queries = nn.Embedding(4, 3)
        self.level_embed = nn.Parameter(torch.zeros(3, 3))
        self.logit_scale = nn.Parameter(torch.zeros(()))
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.same_linear = self.linear


def decays(model: nn.Module) -> dict[str, float]:
    optimizer = build_optimizer(
        model, lr=0.1, weight_decay=0.05, weight_decay_norm=0.01, weight_decay_embed=0.02
    )
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    return {name: decay[id(p)] for name, p in model.named_parameters() if id(p) in decay}


def test_each_kind_of_parameter_has_its_weight_decay_and_frozen_ones_are_left_out() -> None:
    assert decays(Parts()) == {
        "linear.weight": 0.05,
        "linear.bias": 0.05,
        "group_norm.weight": 0.01,
        "group_norm.bias": 0.01,
        "layer_norm.weight": 0.01,
        "layer_norm.bias": 0.01,
        "queries.weight": 0.02,
        "level_embed": 0.02,
        "logit_scale": 0.05,
    }


def test_the_optimizer_is_adamw_with_its_default_betas_and_one_rate() -> None:
    optimizer = build_optimizer(
        Parts(), lr=1e-4, weight_decay=0.05, weight_decay_norm=0.0, weight_decay_embed=0.0
    )
    assert isinstance(optimizer, torch.optim.AdamW)
    assert {(group["lr"], group["betas"]) for group in optimizer.param_groups} == {(1e-4, (0.9, 0.999))}
    assert sorted(group["weight_decay"] for group in optimizer.param_groups) == [0.0, 0.05]


def test_a_model_without_anything_to_train_is_an_error() -> None:
    with pytest.raises(TrainingError, match="nothing to train"):
        decays(nn.Linear(2, 2).requires_grad_(False))


def test_a_fitting_optimizer_is_accepted() -> None:
    model = Parts()
    check_optimizer(torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1), model)


def test_a_frozen_parameter_in_the_optimizer_is_named() -> None:
    model = Parts()
    with pytest.raises(TrainingError, match=r"frozen parameters: frozen\.weight, frozen\.bias"):
        check_optimizer(torch.optim.SGD(model.parameters(), lr=0.1), model)


def test_a_foreign_parameter_in_the_optimizer_is_an_error() -> None:
    model = Parts()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD([*trained, nn.Parameter(torch.zeros(7, 2))], lr=0.1)
    with pytest.raises(TrainingError, match=r"not the model's, of shapes \(7, 2\)"):
        check_optimizer(optimizer, model)


def test_a_trained_parameter_outside_the_optimizer_is_named_and_long_lists_are_cut() -> None:
    model = Parts()
    with pytest.raises(TrainingError, match=r"lacks .*: logit_scale, linear\.weight"):
        check_optimizer(torch.optim.SGD([model.level_embed], lr=0.1), model)
    with pytest.raises(TrainingError, match="and 3 more"):
        check_optimizer(torch.optim.SGD([model.level_embed], lr=0.1), model)
