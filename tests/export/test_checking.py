# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from helpers.exported import NetworkRunner, small_predictor
from torch import Tensor

from cmpf.errors import CMPFError
from cmpf.export.checking import Agreement, check_runner
from cmpf.predictor import Predictor


class Changed(NetworkRunner):
    """The network with an issue."""

    def __init__(self, predictor: Predictor, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__(predictor)
        self.change = change

    def __call__(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        mask_cls, mask_pred = super().__call__(inputs)
        return mask_cls, self.change(mask_pred)


def check(runner: NetworkRunner, predictor: Predictor, *, dynamic: bool = True) -> list[Agreement]:
    return check_runner(runner, runner.network, predictor.model, size=(64, 96), dynamic=dynamic)


def test_two_sizes_and_two_vocabularies_are_compared() -> None:
    predictor = small_predictor()
    first, second = check(NetworkRunner(predictor), predictor)
    assert (first.size, first.classes, first.synonyms) == ((64, 96), 5, 7)
    assert (second.size, second.classes, second.synonyms) == ((96, 64), 20, 20)
    assert first.holds
    assert second.holds
    assert first.spread["mask_pred"] > 0
    assert "64 x 96, 5 classes, 7 synonyms: mask_cls: largest difference" in str(first)


def test_a_program_of_one_size_is_compared_at_that_size() -> None:
    predictor = small_predictor()
    assert [a.size for a in check(NetworkRunner(predictor), predictor, dynamic=False)] == [(64, 96)] * 2


def _noise(x: Tensor) -> Tensor:
    return x + 1e-2 * (x.max() - x.min()) * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))


def _nan(x: Tensor) -> Tensor:
    return torch.where(x == x.max(), torch.nan, x)


@pytest.mark.parametrize("change", [_noise, _nan])
def test_a_program_that_differs_or_gives_no_numbers_is_refused(change: Callable[[Tensor], Tensor]) -> None:
    predictor = small_predictor()
    with pytest.raises(CMPFError, match="does not compute what the model computes, so no file was written"):
        check(Changed(predictor, change), predictor)


def test_one_value_that_rounding_threw_to_the_other_side_is_accepted_and_shown() -> None:
    # 10 queries x 16 x 24 cells = 3,840 values; one that is off by a tenth of the spread moves the mean by 2.6e-5.
    agreement = Agreement(
        size=(64, 96), classes=5, synonyms=7,
        largest={"mask_cls": 0.0, "mask_pred": 0.1},
        mean={"mask_cls": 0.0, "mask_pred": 0.1 / 3840},
        spread={"mask_cls": 1.0, "mask_pred": 1.0},
    )  # fmt: skip
    assert agreement.holds
    assert "mask_pred: largest difference 1.0e-01" in str(agreement)
