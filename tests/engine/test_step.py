# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cmpf.engine.forward import PlainForward
from cmpf.engine.step import TrainStep, split
from cmpf.errors import TrainingError


class Weights(nn.Module):
    """Two weights in two tensors: a norm of each differs from that of both. Loss = (3 a + 4 b) * batch."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.zeros(1))
        self.b = nn.Parameter(torch.zeros(1))

    def forward(self, batch: Any) -> dict[str, Tensor]:
        return {
            "loss_a": 3 * self.a.sum() * torch.as_tensor(batch).mean(),
            "loss_b": 4 * self.b.sum() * torch.as_tensor(batch).mean(),
        }


def make(clip_norm: float) -> tuple[Weights, TrainStep]:
    model = Weights()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    return model, TrainStep(forward=PlainForward(model), optimizer=optimizer, amp=False, clip_norm=clip_norm)


def test_gradients_are_clipped_by_their_common_norm() -> None:
    model, step = make(clip_norm=0.5)
    result = step(1.0)
    # gradient (3, 4) has norm 5; clipped to 0.5 it is (0.3, 0.4), and the rate is 1
    assert result.grad_norm == pytest.approx(5.0)
    assert [model.a.item(), model.b.item()] == pytest.approx([-0.3, -0.4])
    assert result.issue == ""


def test_gradients_below_the_limit_stay() -> None:
    model, step = make(clip_norm=6.0)
    step(1.0)
    assert [model.a.item(), model.b.item()] == [-3.0, -4.0]


def test_an_infinite_limit_clips_nothing() -> None:
    model, step = make(clip_norm=math.inf)
    step(1000.0)
    assert [model.a.item(), model.b.item()] == [-3000.0, -4000.0]


def test_losses_come_back_as_numbers_by_name() -> None:
    _, step = make(clip_norm=math.inf)
    step(1.0)
    assert step(1.0).losses == {"loss_a": -9.0, "loss_b": -16.0}  # 3 * -3, 4 * -4


def test_gradients_do_not_add_up_over_steps() -> None:
    model, step = make(clip_norm=math.inf)
    step(1.0)
    step(1.0)
    assert model.a.item() == -6.0


def test_a_loss_that_is_not_finite_moves_nothing_and_is_named() -> None:
    model, step = make(clip_norm=1.0)
    result = step(float("inf"))  # 0 * inf = nan
    assert result.issue == "loss_a = nan, loss_b = nan"
    assert math.isnan(result.grad_norm)
    assert [model.a.item(), model.b.item()] == [0.0, 0.0]


def test_a_long_list_of_issues_is_cut() -> None:
    class Many(Weights):
        def forward(self, batch: Any) -> dict[str, Tensor]:
            return {f"loss_{i}": self.a.sum() + math.inf for i in range(5)}

    model = Many()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    result = TrainStep(forward=PlainForward(model), optimizer=optimizer, amp=False, clip_norm=1.0)(None)
    assert result.issue == "loss_0 = inf, loss_1 = inf, loss_2 = inf and 2 more"


def test_an_overflow_of_a_scaled_gradient_is_left_out_without_being_an_issue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cmpf.engine.precision.lowest_precision", lambda device: torch.float16)
    model = Weights()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    step = TrainStep(forward=PlainForward(model), optimizer=optimizer, amp=True, clip_norm=math.inf)
    result = step(3e38)  # the losses are 0, their slopes overflow once multiplied by the scale
    assert result.issue == ""
    assert math.isinf(result.grad_norm)
    assert [model.a.item(), model.b.item()] == [0.0, 0.0]
    assert step(1.0).grad_norm == pytest.approx(5.0)
    assert [model.a.item(), model.b.item()] == [-3.0, -4.0]


def test_a_gradient_that_is_not_finite_moves_nothing_and_is_named() -> None:
    class Root(Weights):
        def forward(self, batch: Any) -> dict[str, Tensor]:
            return {"loss": self.a.sum().sqrt() + self.b.sum()}  # the root's slope at 0 is infinite

    model = Root()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    result = TrainStep(forward=PlainForward(model), optimizer=optimizer, amp=False, clip_norm=1.0)(None)
    assert result.losses == {"loss": 0.0}
    assert result.issue == "gradient norm = inf"
    assert [model.a.item(), model.b.item()] == [0.0, 0.0]


class Mean(nn.Module):
    """Loss = weight * mean of the numbers of a batch; finite or not."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, batch: list[float]) -> dict[str, Tensor]:
        return {"loss": self.weight.sum() * sum(batch) / len(batch)}


def in_parts(numbers: list[float], parts: int) -> tuple[float, dict[str, float], str]:
    model = Mean()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    step = TrainStep(
        forward=PlainForward(model),
        optimizer=optimizer,
        amp=False,
        clip_norm=math.inf,
        accumulation_steps=parts,
    )
    result = step(numbers)
    return model.weight.item(), result.losses, result.issue


@pytest.mark.parametrize("parts", [1, 2, 3, 4])
def test_a_batch_in_parts_makes_the_step_of_the_whole_batch(parts: int) -> None:
    # The mean of 1, 2, 3 and 10 is 4; rate 1 takes the weight from 1 to -3.
    weight, losses, issue = in_parts([1.0, 2.0, 3.0, 10.0], parts)
    assert weight == pytest.approx(-3.0)
    assert losses == {"loss": pytest.approx(4.0)}
    assert issue == ""


@pytest.mark.parametrize("bad", [0, 3])
def test_a_part_that_is_not_finite_leaves_the_whole_step_out(bad: int) -> None:
    numbers = [1.0] * 4
    numbers[bad] = math.nan
    weight, _, issue = in_parts(numbers, 2)
    assert weight == 1.0
    assert issue == "loss = nan"


def test_parts_are_of_equal_length_or_one_longer() -> None:
    assert split([1, 2, 3, 4, 5], 3) == [[1, 2], [3, 4], [5]]
    assert split("anything", 1) == ["anything"]


def test_more_parts_than_images_are_refused() -> None:
    with pytest.raises(TrainingError, match=r"ACCUMULATION_STEPS 3: each process has 2 images"):
        split([1, 2], 3)
    with pytest.raises(TrainingError, match="each process has 1 images"):
        split(7, 2)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_trains_in_parts_too(dtype: str) -> None:
    model = nn.Linear(4, 1, bias=False)
    nn.init.ones_(model.weight)
    types = []

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = model

        def forward(self, batch: list[Tensor]) -> dict[str, Tensor]:
            output = self.layer(torch.stack(batch))
            types.append(output.dtype)
            return {"loss": output.float().mean()}

    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    step = TrainStep(
        forward=PlainForward(Model()),
        optimizer=optimizer,
        amp=True,
        amp_dtype=dtype,
        clip_norm=math.inf,
        accumulation_steps=2,
    )
    result = step([torch.ones(4), torch.zeros(4)])
    assert types == [step.precision.dtype] * 2
    assert result.losses == {"loss": 2.0}  # (4 + 0) / 2
    assert result.grad_norm == pytest.approx(1.0)  # four slopes of 1 / 2
    assert torch.allclose(model.weight, torch.full((1, 4), 0.5))
