# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import pytest
import torch
from torch import nn

from cmpf.engine.ema import WeightAverage


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
