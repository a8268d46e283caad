# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import pytest
import torch
from torch import nn

from cmpf.engine.precision import MixedPrecision
from cmpf.errors import TrainingError


@pytest.mark.parametrize("enabled", [False, True])
def test_the_cpu_computes_in_float32_with_or_without_mixed_precision(enabled: bool) -> None:
    precision = MixedPrecision(enabled=enabled, device=torch.device("cpu"))
    layer = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    with precision.autocast():
        output = layer(torch.ones(1, 2))
    assert precision.dtype is output.dtype is torch.float32
    assert not precision.expects_overflow
    before = layer.bias.detach().clone()
    precision.backward(output.sum())
    precision.unscale(optimizer)
    precision.step(optimizer)
    assert torch.equal(layer.bias, before - 1)  # gradient 1, rate 1
    assert precision.state_dict() == {}
    precision.load_state_dict({})


@pytest.mark.gpu
def test_a_gpu_with_bfloat16_uses_it_without_a_scaler() -> None:
    precision = MixedPrecision(enabled=True, device=torch.device("cuda"))
    layer = nn.Linear(2, 2).cuda()
    with precision.autocast():
        output = layer(torch.ones(1, 2, device="cuda"))
    assert output.dtype is precision.dtype
    assert (precision.state_dict() == {}) == (precision.dtype is torch.bfloat16)
    assert precision.expects_overflow == (precision.dtype is torch.float16)


def test_float16_scales_losses_and_leaves_out_steps_that_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cmpf.engine.precision.lowest_precision", lambda device: torch.float16)
    precision = MixedPrecision(enabled=True, device=torch.device("cpu"))
    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    with precision.autocast():
        assert nn.functional.linear(torch.ones(1, 1), torch.ones(1, 1)).dtype is torch.float16
    precision.backward(3 * weight.sum())
    precision.unscale(optimizer)
    assert weight.grad is not None
    assert weight.grad.item() == 3.0  # unscaled, so that clipping sees the true gradient
    scale = precision.state_dict()["scale"]
    optimizer.zero_grad()
    precision.step(optimizer)
    precision.backward(weight.sum() * float("inf"))
    precision.unscale(optimizer)
    assert precision.expects_overflow
    precision.step(optimizer)
    assert weight.item() == 1.0
    assert precision.state_dict()["scale"] == scale / 2


@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_a_type_that_is_asked_for_is_used_on_a_cpu_too(name: str, dtype: torch.dtype) -> None:
    precision = MixedPrecision(enabled=True, device=torch.device("cpu"), dtype=name)
    with precision.autocast():
        assert nn.functional.linear(torch.ones(1, 1), torch.ones(1, 1)).dtype is dtype
    assert (precision.state_dict() != {}) == (name == "fp16")  # only float16 needs a scaler
    assert MixedPrecision(enabled=False, device=torch.device("cpu"), dtype=name).dtype is torch.float32


def test_bfloat16_on_a_gpu_without_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Old GPU")
    with pytest.raises(TrainingError, match=r"AMP\.DTYPE bf16: Old GPU has no bfloat16; use auto or fp16"):
        MixedPrecision(enabled=True, device=torch.device("cuda"), dtype="bf16")


def test_gradients_of_several_passes_add_up_before_the_scale_is_taken_out() -> None:
    precision = MixedPrecision(enabled=True, device=torch.device("cpu"), dtype="fp16")
    weight = nn.Parameter(torch.ones(1))
    precision.backward(weight.sum())
    precision.backward(2 * weight.sum())
    precision.unscale(torch.optim.SGD([weight], lr=1.0))
    assert weight.grad is not None
    assert weight.grad.item() == 3.0


def test_the_scale_survives_saving_and_a_scale_of_one_expects_no_overflow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cmpf.engine.precision.lowest_precision", lambda device: torch.float16)
    one, two = (MixedPrecision(enabled=True, device=torch.device("cpu")) for _ in range(2))
    state = one.state_dict() | {"scale": 1.0}
    two.load_state_dict(state)
    weight = nn.Parameter(torch.ones(1))
    two.backward(weight.sum())
    two.unscale(torch.optim.SGD([weight], lr=1.0))
    assert two.state_dict()["scale"] == 1.0
    assert not two.expects_overflow
