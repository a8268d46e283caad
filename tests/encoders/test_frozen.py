# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Modules that nothing trains, and their faster linear layers."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from helpers.encoders import random_images
from timm.layers import activations
from torch import Tensor, nn
from torch.nn import functional as F

from cmpf.encoders import frozen
from cmpf.encoders.frozen import (
    LEAST_PRODUCTS,
    FrozenModule,
    OneDNNLinear,
    onednn_is_faster,
    use_onednn_linear,
)


class Encoder(FrozenModule):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5))
        self.freeze()

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.layers(images)
        return features


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.head = nn.Conv2d(4, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = self.head(self.encoder(images))
        return output


def test_frozen_weights_and_buffers_are_bit_identical_after_a_training_step() -> None:
    model = Model().train()
    before = copy.deepcopy(model.encoder.state_dict())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    model(random_images(2, 3, 8, 8)).square().mean().backward()
    optimizer.step()
    after = model.encoder.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert int(after["layers.1.num_batches_tracked"]) == 0


def test_training_mode_of_a_parent_leaves_a_frozen_part_and_its_layers_in_eval_mode() -> None:
    model = Model().train()
    assert model.head.training
    assert not any(module.training for module in model.encoder.modules())
    assert not model.encoder.train().layers[1].training


def test_only_the_trained_part_gets_gradients_and_the_output_has_no_history() -> None:
    model = Model().train()
    assert not any(parameter.requires_grad for parameter in model.encoder.parameters())
    images = random_images(1, 3, 4, 4).requires_grad_()
    assert not model.encoder(images).requires_grad
    assert model(images).requires_grad


def test_a_frozen_module_runs_under_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = Encoder()(random_images(1, 3, 4, 4))
    assert features.dtype == torch.bfloat16
    assert torch.isfinite(features).all()


def test_the_hash_depends_on_weights_and_buffers_and_on_nothing_else() -> None:
    one = Encoder()
    other = copy.deepcopy(one)
    assert one.weights_hash == other.weights_hash
    assert len(one.weights_hash) == 64
    state = copy.deepcopy(one.state_dict())
    state["layers.1.running_mean"][0] += 1
    assert other.load_state_dict(state)
    assert one.weights_hash != other.weights_hash


def test_the_hash_is_made_again_when_a_parent_loads_other_weights() -> None:
    model = Model()
    first = model.encoder.weights_hash
    state = model.state_dict()
    model.load_state_dict({**state, "encoder.layers.0.bias": state["encoder.layers.0.bias"] + 1})
    assert model.encoder.weights_hash != first


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


@needs_onednn
def test_in_autocast_to_bfloat16_it_multiplies_in_that_type(
    layer: OneDNNLinear, calls: list[tuple[int, ...]]
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


class Hidden(nn.Module):
    """What timm and segment-anything call their parts, with a gelu of either."""

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
    monkeypatch.setattr(frozen, "onednn_is_faster", lambda: True)
    network, x = Hidden(gelu), large(rows)
    expected = network(x)
    use_onednn_linear(network)
    assert isinstance(network.act, nn.Identity)
    assert "gelu=True" in repr(network.fc1)
    torch.testing.assert_close(network(x), expected, atol=1e-6, rtol=1e-5)  # with gradients
    with torch.no_grad():
        torch.testing.assert_close(network(x), expected, atol=1e-5, rtol=1e-5)
    names = [name for name, _ in network.named_parameters()]
    assert names == ["fc1.weight", "fc1.bias"]


@pytest.mark.parametrize("other", [nn.GELU("tanh"), nn.ReLU()])
def test_another_activation_stays_where_it_is(other: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen, "onednn_is_faster", lambda: True)
    network = Hidden(other)
    use_onednn_linear(network)
    assert network.act is other
    assert not network.fc1.gelu


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
        torch.autocast("cpu", dtype=torch.float16, enabled=case == "autocast"),
    ):
        found = layer(x)
    assert calls == [tuple(x.shape)]
    assert found.dtype is {"float64": torch.float64, "autocast": torch.float16}.get(case, torch.float32)


def test_an_exported_program_does_not_name_the_operator(layer: OneDNNLinear) -> None:
    with torch.no_grad():
        program = torch.export.export(layer.requires_grad_(False), (large(1000),))
    assert "mkldnn" not in str(program.graph)


def test_names_of_weights_and_their_memory_stay_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen, "onednn_is_faster", lambda: True)
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

    monkeypatch.setattr(frozen, "onednn_is_faster", lambda: True)
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
    monkeypatch.setattr(frozen, "_maker", lambda: maker)
    assert onednn_is_faster() is faster


def test_an_operator_that_changed_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(*_: object) -> Tensor:
        raise RuntimeError("expected 7 arguments")

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", other, raising=False)
    assert not frozen._works()
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", lambda x, w, *_: x @ w.T, raising=False)
    assert not frozen._works()  # forgets the bias


@needs_onednn
@pytest.mark.parametrize("where", ["float64", "autocast", "inference"])
def test_the_trial_is_the_same_wherever_the_first_model_is_built(where: str) -> None:
    """Its answer is kept for the whole process: with another one, two processes have results of other rounding."""
    here = frozen._works()
    torch.set_default_dtype(torch.float64 if where == "float64" else torch.float32)
    try:
        with (
            torch.autocast("cpu", dtype=torch.bfloat16, enabled=where == "autocast"),
            torch.inference_mode(where == "inference"),
        ):
            assert frozen._works() is here is True
    finally:
        torch.set_default_dtype(torch.float32)


def test_the_trial_leaves_the_random_generator_alone() -> None:
    before = torch.get_rng_state()
    frozen._works()
    assert torch.equal(before, torch.get_rng_state())
