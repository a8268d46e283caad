# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Linear layers in int8."""

from __future__ import annotations

import copy
import os
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cmpf.encoders.clip_factory import build_clip
from cmpf.encoders.int8 import int8_linear, int8_works, quantize_weight
from cmpf.encoders.linear import InferenceLinear
from cmpf.encoders.sam import build_sam
from cmpf.factory.encoders import MAX_DIFFERENCE

pytestmark = pytest.mark.skipif(
    not int8_works(), reason="this processor has no VNNI instructions, or PyTorch no oneDNN"
)


def numbers(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def naive(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """The same sums of integers, in float64."""
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    scale = (high - low) / 255
    zero = round(-low / scale)
    integers = (x.double() / scale + zero + 0.5).floor().clamp(0, 255) - zero
    scales = weight.double().abs().amax(dim=1) / 127
    return integers @ (weight.double() / scales[:, None]).round().T * scale * scales + bias.double()


@pytest.mark.parametrize("leading", [(1,), (1000,), (3, 50, 20)])
@pytest.mark.parametrize("shift", [0.0, 5.0, -5.0])
def test_it_agrees_with_sums_of_rounded_numbers(leading: tuple[int, ...], shift: float) -> None:
    x, weight, bias = numbers(*leading, 96, seed=0) + shift, numbers(64, 96, seed=1), numbers(64, seed=2)
    found = int8_linear(x, quantize_weight(weight), bias)
    assert found.shape == (*leading, 64)
    assert found.dtype is torch.float32
    difference = (found - naive(x, weight, bias)).abs()
    step = (max(x.max(), 0) - min(x.min(), 0)) / 255 * weight.abs().max()
    # A number halfway between two integers may go to either.
    assert (difference < 1e-3).double().mean() > 0.9
    assert difference.max() < 2 * step


def test_by_hand() -> None:
    # 0 and 255 are stored as they are, and so are weights of 127 and -127.
    x = torch.tensor([[0.0, 255.0], [255.0, 255.0]])
    weight = torch.tensor([[127.0, -127.0], [0.0, 127.0]])
    found = int8_linear(x, quantize_weight(weight), torch.tensor([1.0, 2.0]))
    assert found.tolist() == [[-32384.0, 32387.0], [1.0, 32387.0]]


def test_gelu_follows_where_it_is_asked_for() -> None:
    x, weight, bias = numbers(100, 96, seed=0), quantize_weight(numbers(64, 96, seed=1)), numbers(64, seed=2)
    torch.testing.assert_close(int8_linear(x, weight, bias, gelu=True), F.gelu(int8_linear(x, weight, bias)))


def test_columns_that_lie_apart_in_memory_are_read_right() -> None:
    x, weight = numbers(20, 50, 96, seed=0).transpose(0, 1), quantize_weight(numbers(64, 96, seed=1))
    assert torch.equal(int8_linear(x, weight, None), int8_linear(x.contiguous(), weight, None))


@pytest.mark.parametrize("value", [0.0, 3.0, -3.0])
def test_constant_inputs_and_rows_of_zeros_divide_by_nothing(value: float) -> None:
    weight = torch.eye(8, 16)
    weight[3] = 0
    found = int8_linear(torch.full((4, 16), value), quantize_weight(weight), None)
    expected = torch.full((4, 8), value)
    expected[:, 3] = 0
    torch.testing.assert_close(found, expected)


def test_a_layer_computes_in_int8_where_it_is_asked_to_and_no_gradient_is() -> None:
    torch.manual_seed(0)
    layer = InferenceLinear(nn.Linear(96, 64))
    x = numbers(100, 96, seed=0)
    with torch.no_grad():
        exact = F.linear(x, layer.weight, layer.bias)
        layer.int8 = True
        found = layer(x)
    assert torch.equal(found, int8_linear(x, quantize_weight(layer.weight.detach()), layer.bias))
    assert 0 < (found - exact).abs().max() < 0.02 * exact.abs().max()
    torch.testing.assert_close(layer(x), exact)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_inputs_that_are_not_finite_give_nan(value: float) -> None:
    x, weight = numbers(4, 16, seed=0), quantize_weight(numbers(8, 16, seed=1))
    x[1, 2] = value
    for gelu in (False, True):
        assert int8_linear(x, weight, torch.ones(8), gelu=gelu).isnan().all()


@torch.no_grad()
def test_an_empty_input_gives_an_empty_output() -> None:
    layer = InferenceLinear(nn.Linear(96, 64))
    layer.int8 = True
    assert layer(torch.empty(0, 96)).shape == (0, 64)


@torch.no_grad()
def test_a_layer_can_be_copied_after_a_prediction() -> None:
    layer = InferenceLinear(nn.Linear(96, 64)).requires_grad_(False)
    layer.int8 = True
    x = numbers(100, 96, seed=0)
    expected = layer(x)
    assert torch.equal(copy.deepcopy(layer)(x), expected)


def test_text_and_embeddings_of_masks_stay_in_float32() -> None:
    clip = build_clip(name="cmpf_tiny", pretrained="")
    image = numbers(1, 3, 64, 64, seed=0)
    exact, text = clip(image), clip.encode_text(["a red circle"])
    masks = numbers(1, 5, 16, 16, seed=1)
    embedded, _ = clip.embed_masks(exact.dense, masks)
    clip.set_compute_dtype(torch.int8)
    assert torch.equal(clip.encode_text(["a red circle"]), text)
    assert torch.equal(clip.embed_masks(exact.dense, masks)[0], embedded)
    assert not torch.equal(clip(image).dense, exact.dense)
    clip.set_compute_dtype(None)
    assert torch.equal(clip(image).dense, exact.dense)


def test_features_of_encoders_in_int8_are_within_what_is_allowed() -> None:
    for part in (
        build_clip(name="cmpf_tiny", pretrained=""),
        build_sam(name="cmpf_tiny", checkpoint=""),
    ):
        assert 1e-3 < part.difference_in(torch.int8) < MAX_DIFFERENCE
        assert part.compute_dtype is None  # as before


@pytest.mark.skipif(
    not torch.cpu.get_capabilities().get("avx2"), reason="only x86 processors are restricted so"
)
def test_a_processor_without_such_instructions_is_refused_in_one_line() -> None:
    program = (
        "import cmpf, cmpf.errors\n"
        "try: cmpf.load('cmpf_tiny', device='cpu', overrides=['MODEL.CMPF.PRECISION', 'int8'])\n"
        "except cmpf.errors.CMPFError as error: print(error)"
    )
    told = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert told.strip() == (
        "MODEL.CMPF.PRECISION int8: this processor has no instructions that sum int8 products exactly (AVX512-VNNI, "
        "AVX-VNNI or AMX); use auto or fp32"
    )
