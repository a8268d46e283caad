# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Faster linear layers for predictions on a CPU."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from timm.layers import activations
from torch import Tensor, nn
from torch.nn import functional as F

from cmpf.encoders import linear as module
from cmpf.encoders.frozen import FrozenModule
from cmpf.encoders.linear import (
    MIN_MULTIPLICATIONS,
    InferenceLinear,
    has_amx,
    onednn_is_faster,
    use_inference_linear,
)

needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this build of PyTorch has no oneDNN"
)


@pytest.fixture
def layer(monkeypatch: pytest.MonkeyPatch) -> InferenceLinear:
    """A layer on a processor for which oneDNN is faster."""
    for property_ in ("onednn_is_faster", "onednn_works"):
        monkeypatch.setattr(module, property_, lambda: True)
    torch.manual_seed(0)
    return InferenceLinear(nn.Linear(96, 64))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the inputs of F.linear, that is, of calls that do not use oneDNN."""
    shapes: list[tuple[int, ...]] = []
    plain = F.linear

    def linear(x: Tensor, *args: Tensor) -> Tensor:
        shapes.append(tuple(x.shape))
        return plain(x, *args)

    monkeypatch.setattr(F, "linear", linear)
    return shapes


@pytest.fixture
def fresh() -> Iterator[None]:
    """Clears the cached properties of the processor before and after the test."""
    properties = (onednn_is_faster, module.onednn_works, has_amx)
    for property_ in properties:
        property_.cache_clear()
    yield
    for property_ in properties:
        property_.cache_clear()


def large(*leading: int) -> Tensor:
    return torch.randn(*leading, 96, generator=torch.Generator().manual_seed(1))


@needs_onednn
@pytest.mark.parametrize("leading", [(1000,), (4, 250), (2, 25, 20)])
def test_it_agrees_with_a_float64_product_for_any_number_of_leading_dimensions(
    layer: InferenceLinear, leading: tuple[int, ...], calls: list[tuple[int, ...]]
) -> None:
    x = large(*leading)
    with torch.no_grad():
        found = layer(x)
    assert calls == []
    expected = x.double() @ layer.weight.double().T + layer.bias.double()
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


@needs_onednn
def test_columns_that_lie_apart_in_memory_are_read_right(layer: InferenceLinear) -> None:
    x = large(20, 50).transpose(0, 1)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias), atol=1e-5, rtol=1e-5)


@needs_onednn
def test_a_layer_without_bias_works(layer: InferenceLinear) -> None:
    linear = nn.Linear(96, 64, bias=False)
    with torch.no_grad():
        torch.testing.assert_close(
            InferenceLinear(linear)(large(1000)), linear(large(1000)), atol=1e-5, rtol=1e-5
        )


def test_gradients_are_those_of_a_linear_layer(layer: InferenceLinear) -> None:
    x = large(1000).requires_grad_()
    layer(x).sum().backward()
    assert torch.allclose(x.grad, layer.weight.sum(dim=0).expand(1000, -1))


@needs_onednn
def test_in_autocast_to_bfloat16_it_multiplies_in_that_type(
    layer: InferenceLinear, calls: list[tuple[int, ...]]
) -> None:
    x = large(1000)
    expected = F.linear(x, layer.weight, layer.bias)
    calls.clear()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = [layer(x), layer(x.bfloat16())]
    assert calls == []
    for result in found:
        assert result.dtype is torch.bfloat16
        # Rounding 8 bits of inputs, weights and result: 3 / 256 of the largest number is far above it.
        assert (result.float() - expected).abs().max() < 3 / 256 * expected.abs().max()


@needs_onednn
def test_what_is_added_to_the_input_of_a_block_comes_back_in_float32(layer: InferenceLinear) -> None:
    block = nn.Module()
    block.fc2, block.fc3 = nn.Linear(96, 64), nn.Linear(96, 64)
    use_inference_linear(block)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert block.fc2(large(1000)).dtype is torch.float32
        assert block.fc3(large(1000)).dtype is torch.bfloat16


@needs_onednn
@pytest.mark.parametrize("change", ["written", "moved", "bias", "inference"])
def test_weights_in_bfloat16_are_kept_until_the_weights_change(layer: InferenceLinear, change: str) -> None:
    layer.requires_grad_(False)
    x = large(1000)

    def product() -> Tensor:
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            return layer(x)

    before = product()
    kept = layer._cache
    assert torch.equal(product(), before)
    assert layer._cache is kept
    assert copy.deepcopy(layer)._cache is None
    if change == "written":
        layer.weight.mul_(2)
    elif change == "moved":
        layer.weight = nn.Parameter(layer.weight * 2, requires_grad=False)
    elif change == "bias":
        layer.bias.add_(1)
    else:
        with torch.inference_mode():
            layer.weight = nn.Parameter(layer.weight * 2, requires_grad=False)
    assert not torch.equal(product(), before)


@needs_onednn
def test_weights_that_are_trained_are_not_kept_in_bfloat16(layer: InferenceLinear) -> None:
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        layer(large(1000))
    assert layer._cache is None


class MLP(nn.Module):
    """An MLP's first layer and activation, under timm's names."""

    def __init__(self, gelu: nn.Module) -> None:
        super().__init__()
        self.fc1, self.act = nn.Linear(96, 64), gelu

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.act(self.fc1(x))
        return result


@needs_onednn
@pytest.mark.parametrize("gelu", [nn.GELU(), activations.GELU()])
@pytest.mark.parametrize("rows", [8, 1000])
def test_the_gelu_after_a_layer_is_part_of_it(
    gelu: nn.Module, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "onednn_is_faster", lambda: True)
    network, x = MLP(gelu), large(rows)
    expected = network(x)
    use_inference_linear(network)
    assert isinstance(network.act, nn.Identity)
    assert "gelu=True" in repr(network.fc1)
    torch.testing.assert_close(network(x), expected, atol=1e-6, rtol=1e-5)  # with gradients
    with torch.no_grad():
        torch.testing.assert_close(network(x), expected, atol=1e-5, rtol=1e-5)
    names = [name for name, _ in network.named_parameters()]
    assert names == ["fc1.weight", "fc1.bias"]


@pytest.mark.parametrize("other", [nn.GELU("tanh"), nn.ReLU()])
def test_another_activation_stays_where_it_is(other: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "onednn_is_faster", lambda: True)
    network = MLP(other)
    use_inference_linear(network)
    assert network.act is other
    assert not network.fc1.gelu


@pytest.mark.parametrize("case", ["small", "float64", "autocast", "gradients"])
def test_where_oneDNN_cannot_or_should_not_it_is_a_linear_layer(
    layer: InferenceLinear, calls: list[tuple[int, ...]], case: str
) -> None:
    rows = MIN_MULTIPLICATIONS // (96 * 64)  # 682: one row less than the limit asks for
    x = large(rows if case == "small" else rows + 1)
    if case == "float64":
        layer, x = layer.double(), x.double()
    with (
        torch.set_grad_enabled(case == "gradients"),
        torch.autocast("cpu", dtype=torch.float16, enabled=case == "autocast"),
    ):
        found = layer(x)
    assert calls == [tuple(x.shape)]
    assert found.dtype is {"float64": torch.float64, "autocast": torch.float16}.get(case, torch.float32)


def test_an_exported_program_does_not_name_the_operator(layer: InferenceLinear) -> None:
    with torch.no_grad():
        program = torch.export.export(layer.requires_grad_(False), (large(1000),))
    assert "mkldnn" not in str(program.graph)


def test_names_of_weights_and_their_memory_stay_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "onednn_is_faster", lambda: True)
    network = nn.Sequential(
        nn.Linear(3, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 2, bias=False)), nn.Conv2d(1, 1, 1)
    )
    before = dict(network.named_parameters())
    use_inference_linear(network)
    assert [type(m) for m in (network[0], network[1][1])] == [InferenceLinear, InferenceLinear]
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

    monkeypatch.setattr(module, "onednn_is_faster", lambda: True)
    encoder = Frozen().train()
    assert isinstance(encoder.layers[0], InferenceLinear)
    assert not encoder.layers[0].training
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


@needs_onednn
@pytest.mark.parametrize(
    ("vendor", "capability", "faster"),
    [
        ("AuthenticAMD", "AVX512", True),
        ("GenuineIntel", "AVX512", False),  # MKL's own vendor
        ("AuthenticAMD", "AVX2", False),  # MKL uses that
        ("", "AVX512", False),  # unknown
    ],
)
def test_it_is_for_processors_whose_wide_units_mkl_leaves_unused(
    vendor: str, capability: str, faster: bool, monkeypatch: pytest.MonkeyPatch, fresh: None
) -> None:
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(module, "_cpu_vendor", lambda: vendor)
    assert onednn_is_faster() is faster


def test_an_operator_that_changed_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(*_: object) -> Tensor:
        raise RuntimeError("expected 7 arguments")

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", other, raising=False)
    assert not module._onednn_agrees()
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", lambda x, w, *_: x @ w.T, raising=False)
    assert not module._onednn_agrees()  # forgets the bias


@needs_onednn
@pytest.mark.parametrize("where", ["float64", "autocast", "inference"])
def test_the_trial_is_the_same_wherever_the_first_model_is_built(where: str) -> None:
    """Its answer is kept for the whole process: with another one, two processes have results of other rounding."""
    here = module._onednn_agrees()
    torch.set_default_dtype(torch.float64 if where == "float64" else torch.float32)
    try:
        with (
            torch.autocast("cpu", dtype=torch.bfloat16, enabled=where == "autocast"),
            torch.inference_mode(where == "inference"),
        ):
            assert module._onednn_agrees() is here is True
    finally:
        torch.set_default_dtype(torch.float32)


def test_the_trial_leaves_the_random_generator_alone() -> None:
    before = torch.get_rng_state()
    module._onednn_agrees()
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(("capabilities", "expected"), [({}, False), ({"amx_bf16": True}, True)])
def test_a_processor_says_whether_it_multiplies_matrices_of_bfloat16(
    capabilities: dict[str, bool], expected: bool, monkeypatch: pytest.MonkeyPatch, fresh: None
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert has_amx() is expected
