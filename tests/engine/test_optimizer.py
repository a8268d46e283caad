# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from cmpf.engine.optimizer import WeightAverage, build_optimizer, check_optimizer, load_optimizer
from cmpf.engine.schedule import Schedule, build_schedule
from cmpf.errors import ConfigError, TrainingError


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
        self.same_weight = nn.Linear(2, 3, bias=False)
        self.same_weight.weight = self.linear.weight


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
        "level_embed": 0.05,  # a bare parameter, as in the published code; only nn.Embedding has its own
        "logit_scale": 0.05,
    }


def test_the_optimizer_is_adamw_with_its_default_betas_and_one_rate() -> None:
    optimizer = build_optimizer(
        Parts(), lr=1e-4, weight_decay=0.05, weight_decay_norm=0.0, weight_decay_embed=0.0
    )
    assert isinstance(optimizer, torch.optim.AdamW)
    assert {(group["lr"], group["betas"]) for group in optimizer.param_groups} == {(1e-4, (0.9, 0.999))}
    assert sorted(group["weight_decay"] for group in optimizer.param_groups) == [0.0, 0.05]


def test_parameters_of_a_prefix_have_a_rate_of_their_own_and_come_after_the_others() -> None:
    model = Parts()
    optimizer = build_optimizer(
        model,
        lr=0.1,
        weight_decay=0.05,
        weight_decay_norm=0.0,
        weight_decay_embed=0.0,
        scaled_prefix="linear.",
        lr_factor=0.5,
    )
    *others, (rate, scaled) = [(group["lr"], group["params"]) for group in optimizer.param_groups]
    assert {other for other, _ in others} == {0.1}
    assert rate == 0.05
    assert [id(p) for p in scaled] == [id(p) for p in model.linear.parameters()]


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


def test_the_state_of_other_groups_is_refused_in_one_line() -> None:
    def grouped(*sizes: int) -> torch.optim.Optimizer:
        return torch.optim.AdamW([{"params": [nn.Parameter(torch.ones(2)) for _ in range(n)]} for n in sizes])

    optimizer, same = grouped(3, 2), grouped(3, 2)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones(2)
    optimizer.step()
    load_optimizer(same, optimizer.state_dict())
    assert [s["step"].item() for s in same.state_dict()["state"].values()] == [1.0] * 5
    with pytest.raises(
        TrainingError, match=r"groups of \[3, 2\] parameters, this model's has \[4, 1\]: .*MODEL\.WEIGHTS"
    ):
        load_optimizer(grouped(4, 1), optimizer.state_dict())


def optimizer_with(*rates: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates])


def make(name: str, optimizer: torch.optim.Optimizer, **changes: Any) -> Schedule:
    values: dict[str, Any] = {
        "max_iter": 8,
        "steps": (),
        "gamma": 0.1,
        "warmup_iters": 0,
        "warmup_factor": 1.0,
    }
    return build_schedule(name, optimizer, **(values | changes))


def rates(schedule: Schedule, count: int) -> list[float]:
    found = []
    for _ in range(count):
        found.append(schedule.learning_rate)
        schedule.step()
    return found


def test_multi_step_drops_at_its_steps() -> None:
    schedule = make("WarmupMultiStepLR", optimizer_with(2.0), steps=(2, 4))
    assert rates(schedule, 6) == pytest.approx([2, 2, 0.2, 0.2, 0.02, 0.02])


def test_warm_up_rises_in_a_straight_line() -> None:
    schedule = make("WarmupMultiStepLR", optimizer_with(1.0), warmup_iters=4, warmup_factor=0.2)
    # 0.2 + 0.8 * i / 4
    assert rates(schedule, 6) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])


def test_a_warm_up_factor_of_one_is_no_warm_up() -> None:
    schedule = make("WarmupMultiStepLR", optimizer_with(1.0), warmup_iters=10, warmup_factor=1.0)
    assert rates(schedule, 12) == [1.0] * 12


def test_cosine_goes_from_one_to_zero_and_stays() -> None:
    schedule = make("WarmupCosineLR", optimizer_with(4.0), max_iter=4)
    # (1 + cos(pi i / 4)) / 2 = 1, (1 + sqrt 0.5) / 2, 0.5, (1 - sqrt 0.5) / 2, 0
    assert rates(schedule, 6) == pytest.approx([4, 3.414213562, 2, 0.585786438, 0, 0])


def test_cosine_is_multiplied_by_the_warm_up() -> None:
    schedule = make("WarmupCosineLR", optimizer_with(1.0), max_iter=4, warmup_iters=2, warmup_factor=0.5)
    # warm-up 0.5, 0.75, 1 times cosine 1, 0.853553, 0.5
    assert rates(schedule, 3) == pytest.approx([0.5, 0.75 * 0.853553391, 0.5])


def test_the_polynomial_falls_to_zero_and_stays_and_is_multiplied_by_the_warm_up() -> None:
    # ((4 - i) / 4) ** 0.5 = 1, sqrt 0.75, sqrt 0.5, 0.5, 0
    plain = make("WarmupPolyLR", optimizer_with(2.0), max_iter=4, power=0.5)
    assert rates(plain, 6) == pytest.approx([2, 2 * 0.866025404, 2 * 0.707106781, 1, 0, 0])
    warm = make("WarmupPolyLR", optimizer_with(1.0), max_iter=4, power=2, warmup_iters=2, warmup_factor=0.5)
    assert rates(warm, 3) == pytest.approx([0.5, 0.75 * 0.5625, 0.25])


def test_every_group_keeps_its_own_base_rate() -> None:
    optimizer = optimizer_with(1.0, 0.5)
    schedule = make("WarmupMultiStepLR", optimizer, steps=(1,))
    schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1, 0.05])


def test_a_restored_schedule_goes_on_where_it_was() -> None:
    build: Callable[[], Schedule] = lambda: make("WarmupCosineLR", optimizer_with(1.0), warmup_iters=3)  # noqa: E731
    whole, first, second = build(), build(), build()
    expected = rates(whole, 8)
    before = rates(first, 5)
    second.load_state_dict(first.state_dict())
    assert before + rates(second, 3) == expected


def test_the_published_schedule_has_the_published_rates() -> None:
    schedule = make(
        "WarmupMultiStepLR",
        optimizer_with(1e-4),
        max_iter=368750,
        steps=(327778, 355092),
        warmup_iters=10,
        warmup_factor=1.0,
    )
    for iteration, rate in ((0, 1e-4), (327777, 1e-4), (327778, 1e-5), (355091, 1e-5), (355092, 1e-6)):
        schedule.load_state_dict({"iteration": iteration, "base_rates": [1e-4]})
        assert schedule.learning_rate == pytest.approx(rate)


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'StepLR' is not known.*WarmupMultiStepLR, WarmupCosineLR"):
        make("StepLR", optimizer_with(1.0))


def test_impossible_numbers_are_refused() -> None:
    with pytest.raises(ConfigError, match="max_iter > 0, got 0"):
        make("WarmupCosineLR", optimizer_with(1.0), max_iter=0)
    assert rates(make("WarmupCosineLR", optimizer_with(1.0), max_iter=1), 2) == [1, 0]
    with pytest.raises(ConfigError, match=r"must ascend, got \[4, 2\]"):
        make("WarmupMultiStepLR", optimizer_with(1.0), steps=(4, 2))


def pair(decay: float) -> tuple[nn.Linear, WeightAverage]:
    model = nn.Linear(1, 1)
    model.bias.requires_grad_(False)
    model.weight.data.fill_(1.0)
    return model, WeightAverage(model, decay=decay)


def averaged(model: nn.Linear, average: WeightAverage) -> float:
    with average.applied():
        return model.weight.item()


def test_the_average_follows_the_weights_by_hand_worked_numbers() -> None:
    model, average = pair(0.25)
    model.weight.data.fill_(3.0)
    average.update()  # d = min(0.25, 2 / 11) = 2 / 11: 2 / 11 * 1 + 9 / 11 * 3 = 29 / 11
    assert averaged(model, average) == pytest.approx(29 / 11)
    model.weight.data.fill_(0.0)
    average.update()  # d = min(0.25, 3 / 12) = 0.25
    assert averaged(model, average) == pytest.approx(0.25 * 29 / 11)


def test_a_decay_of_zero_is_the_weights_themselves() -> None:
    model, average = pair(0.0)
    model.weight.data.fill_(5.0)
    average.update()
    assert averaged(model, average) == 5.0


def test_afterwards_the_model_has_its_own_weights_to_the_bit_even_after_an_error() -> None:
    model, average = pair(0.9)
    model.weight.data.fill_(1 / 3)
    average.update()
    before = model.weight.detach().clone()
    with pytest.raises(ZeroDivisionError), average.applied():
        raise ZeroDivisionError
    assert torch.equal(model.weight, before)


def test_frozen_weights_are_left_alone() -> None:
    _, average = pair(0.9)
    assert list(average.state_dict()["average"]) == ["weight"]


def test_it_goes_on_from_a_saved_state() -> None:
    (model, average), (other, again) = pair(0.5), pair(0.5)
    model.weight.data.fill_(3.0)
    average.update()
    again.resume(average.state_dict())
    for m, a in ((model, average), (other, again)):
        m.weight.data.fill_(7.0)
        a.update()
    assert averaged(model, average) == averaged(other, again)


def test_a_training_that_had_no_average_begins_one_at_its_weights() -> None:
    model, average = pair(0.5)
    model.weight.data.fill_(9.0)
    average.resume(None)
    assert averaged(model, average) == 9.0
