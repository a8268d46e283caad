# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmpf.encoders import frozen as onednn
from cmpf.encoders.frozen import (
    LEAST_PRODUCTS,
    FrozenModule,
    OneDNNLinear,
    onednn_is_faster,
    use_onednn_linear,
)

needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this build of PyTorch has no oneDNN"
)


@pytest.fixture
def layer() -> OneDNNLinear:
    torch.manual_seed(0)
    return OneDNNLinear(nn.Linear(96, 64))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of what goes through F.linear, that is, not through oneDNN."""
    found: list[tuple[int, ...]] = []
    plain = F.linear

    def linear(x: Tensor, *args: Tensor) -> Tensor:
        found.append(tuple(x.shape))
        return plain(x, *args)

    monkeypatch.setattr(F, "linear", linear)
    return found


@pytest.fixture
def fresh() -> Iterator[None]:
    """onednn_is_faster asks again, and afterwards too."""
    onednn_is_faster.cache_clear()
    yield
    onednn_is_faster.cache_clear()


def large(*leading: int) -> Tensor:
    return torch.randn(*leading, 96, generator=torch.Generator().manual_seed(1))


@needs_onednn
@pytest.mark.parametrize("leading", [(1000,), (4, 250), (2, 25, 20)])
def test_it_agrees_with_a_float64_product_for_any_number_of_leading_dimensions(
    layer: OneDNNLinear, leading: tuple[int, ...], calls: list[tuple[int, ...]]
) -> None:
    x = large(*leading)
    with torch.no_grad():
        found = layer(x)
    assert calls == []
    expected = x.double() @ layer.weight.double().T + layer.bias.double()
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


@needs_onednn
def test_columns_that_lie_apart_in_memory_are_read_right(layer: OneDNNLinear) -> None:
    x = large(20, 50).transpose(0, 1)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias), atol=1e-5, rtol=1e-5)


@needs_onednn
def test_a_layer_without_bias_works() -> None:
    linear = nn.Linear(96, 64, bias=False)
    with torch.no_grad():
        torch.testing.assert_close(
            OneDNNLinear(linear)(large(1000)), linear(large(1000)), atol=1e-5, rtol=1e-5
        )


def test_gradients_are_those_of_a_linear_layer(layer: OneDNNLinear) -> None:
    x = large(1000).requires_grad_()
    layer(x).sum().backward()
    assert torch.allclose(x.grad, layer.weight.sum(dim=0).expand(1000, -1))


@pytest.mark.parametrize("case", ["small", "float64", "autocast", "gradients"])
def test_where_oneDNN_cannot_or_should_not_it_is_a_linear_layer(
    layer: OneDNNLinear, calls: list[tuple[int, ...]], case: str
) -> None:
    rows = LEAST_PRODUCTS // (96 * 64)  # 682: one row less than the limit asks for
    x = large(rows if case == "small" else rows + 1)
    if case == "float64":
        layer, x = layer.double(), x.double()
    with (
        torch.set_grad_enabled(case == "gradients"),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=case == "autocast"),
    ):
        found = layer(x)
    assert calls == [tuple(x.shape)]
    assert found.dtype is {"float64": torch.float64, "autocast": torch.bfloat16}.get(case, torch.float32)


def test_an_exported_program_does_not_name_the_operator(layer: OneDNNLinear) -> None:
    with torch.no_grad():
        program = torch.export.export(layer.requires_grad_(False), (large(1000),))
    assert "mkldnn" not in str(program.graph)


def test_names_of_weights_and_their_memory_stay_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "onednn_is_faster", lambda: True)
    network = nn.Sequential(
        nn.Linear(3, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 2, bias=False)), nn.Conv2d(1, 1, 1)
    )
    before = dict(network.named_parameters())
    use_onednn_linear(network)
    assert [type(m) for m in (network[0], network[1][1])] == [OneDNNLinear, OneDNNLinear]
    after = dict(network.named_parameters())
    assert before.keys() == after.keys()
    assert all(before[name] is after[name] for name in before)
    assert "in_features=3, out_features=4, bias=True" in repr(network[0])


def test_frozen_modules_take_it_and_stay_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    class Frozen(FrozenModule):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(96, 64))
            self.freeze()

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.layers(x)
            return result

    monkeypatch.setattr(onednn, "onednn_is_faster", lambda: True)
    module = Frozen().train()
    assert isinstance(module.layers[0], OneDNNLinear)
    assert not module.layers[0].training
    assert not any(parameter.requires_grad for parameter in module.parameters())


@needs_onednn
@pytest.mark.parametrize(
    ("maker", "capability", "faster"),
    [
        ("AuthenticAMD", "AVX512", True),
        ("GenuineIntel", "AVX512", False),  # MKL's own maker
        ("AuthenticAMD", "AVX2", False),  # MKL uses that
        ("", "AVX512", False),  # unknown
    ],
)
def test_it_is_for_processors_whose_wide_units_mkl_leaves_unused(
    maker: str, capability: str, faster: bool, monkeypatch: pytest.MonkeyPatch, fresh: None
) -> None:
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(onednn, "_maker", lambda: maker)
    assert onednn_is_faster() is faster


def test_an_operator_that_changed_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(*_: object) -> Tensor:
        raise RuntimeError("expected 7 arguments")

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", other, raising=False)
    assert not onednn._works()
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", lambda x, w, *_: x @ w.T, raising=False)
    assert not onednn._works()  # forgets the bias


def test_the_trial_leaves_the_random_generator_alone() -> None:
    before = torch.get_rng_state()
    onednn._works()
    assert torch.equal(before, torch.get_rng_state())
