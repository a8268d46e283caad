# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from cmpf.engine.schedule import Schedule, build_schedule
from cmpf.errors import ConfigError


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
    with pytest.raises(ConfigError, match=r"must ascend, got \[4, 2\]"):
        make("WarmupMultiStepLR", optimizer_with(1.0), steps=(4, 2))
