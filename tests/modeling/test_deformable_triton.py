# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Tests of the operator, against PyTorch's function in float64, with the kernels interpreted on the CPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from helpers.modeling import fill_by_name, random
from helpers.triton_interpreter import interpreted_kernels
from torch import Tensor

from cmpf.modeling.deformable import kernels, triton
from cmpf.modeling.deformable.module import (
    MultiScaleDeformableAttention,
    choose_deformable_attention,
)
from cmpf.modeling.deformable.ops import deformable_attention
from cmpf.modeling.deformable.triton import triton_deformable_attention, triton_issue

SHAPES = [(2, 3), (4, 6), (5, 7)]  # 6 + 24 + 35 = 65 places
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
# One rounding in the dtype: bfloat16 has 8 significant bits, float16 11. Gradients of locations grow with the map.
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2**-7, torch.float16: 2**-10}


@pytest.fixture
def interpreter() -> Iterator[None]:
    with interpreted_kernels():
        yield


@pytest.fixture(autouse=True)
def _clear_cached_issue() -> Iterator[None]:
    triton_issue.cache_clear()
    yield
    triton_issue.cache_clear()


def inputs(
    shapes: list[tuple[int, int]], *, queries: int, device: torch.device = CPU, depth: int = 3
) -> tuple[Tensor, Tensor, Tensor]:
    """Values, places uniform over -0.2..1.2 (some outside) and weights: 2 images, 2 heads, 2 points."""
    places, levels = sum(h * w for h, w in shapes), len(shapes)
    value = random("value", 2, places, 2, depth)
    locations = random("locations", 2, queries, 2, levels, 2, 2).sigmoid() * 1.4 - 0.2
    weights = random("weights", 2, queries, 2, levels * 2).softmax(-1).view(2, queries, 2, levels, 2)
    return value.to(device), locations.to(device), weights.to(device)


def run(function: object, tensors: tuple[Tensor, ...], shapes: list[tuple[int, int]]) -> list[Tensor]:
    """The output, and the three gradients for a random gradient of it."""
    value, locations, weights = (t.detach().requires_grad_() for t in tensors)
    result = function(value, shapes, locations, weights)  # type: ignore[operator]
    grad = random("of result", *result.shape).to(result)
    return [result, *torch.autograd.grad(result, (value, locations, weights), grad)]


def assert_agrees(tensors: tuple[Tensor, ...], shapes: list[tuple[int, int]]) -> None:
    """Result and gradients are PyTorch's in float64, up to the rounding of each tensor's own type."""
    found = run(triton_deformable_attention, tensors, shapes)
    expected = run(deformable_attention, tuple(t.double() for t in tensors), shapes)
    assert [t.dtype for t in found] == [tensors[0].dtype, *(t.dtype for t in tensors)]
    for ours, theirs, like in zip(found, expected, (tensors[0], *tensors), strict=True):
        tolerance = TOLERANCES[max(like.dtype, tensors[0].dtype, key=lambda t: TOLERANCES[t])]
        scale = float(theirs.detach().abs().max())
        torch.testing.assert_close(ours.double(), theirs, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_results_and_gradients_are_those_of_float64(interpreter: None, dtype: torch.dtype) -> None:
    # 19 queries fill one block of 16 and part of a second; 3 numbers a head are no power of two.
    shapes = SHAPES[1:]
    assert_agrees(tuple(t.to(dtype) for t in inputs(shapes, queries=19)), shapes)


@pytest.mark.parametrize("shapes", [[(1, 1)], [(3, 5)], [(1, 4), (2, 1), (3, 3), (2, 2)]])
def test_any_number_of_levels_and_any_size(interpreter: None, shapes: list[tuple[int, int]]) -> None:
    assert_agrees(inputs(shapes, queries=3), shapes)


def test_inputs_may_have_any_strides_and_each_its_own_type(interpreter: None) -> None:
    value, locations, weights = inputs(SHAPES, queries=3)
    value = value.bfloat16().permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    locations = torch.stack([locations, locations], dim=-1).flatten(-2)[..., ::2]
    weights = weights[:, :1].half().expand(-1, 3, -1, -1, -1)
    assert not any(t.is_contiguous() for t in (value, locations, weights))
    assert_agrees((value, locations, weights), SHAPES)


def test_far_and_infinite_places_read_zeros_and_move_nothing(interpreter: None) -> None:
    value = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1, 1)  # [[1, 2], [3, 4]]
    # The middle of all four: (1 + 2 + 3 + 4) / 4 = 2.5; the others are outside.
    places = torch.tensor([[0.5, 0.5], [1e30, 0.5], [0.5, -1e30], [torch.inf, -torch.inf]])
    result, grad_value, grad_locations, grad_weights = run(
        triton_deformable_attention,
        (value, places.view(1, 4, 1, 1, 1, 2), torch.ones(1, 4, 1, 1, 1)),
        [(2, 2)],
    )
    torch.testing.assert_close(result.flatten(), torch.tensor([2.5, 0.0, 0.0, 0.0]))
    slope = float(random("of result", 1, 4, 1)[0, 0, 0])
    torch.testing.assert_close(grad_value.flatten(), torch.full((4,), slope / 4))
    # One width to the right is two cells, each worth 1 here (2 - 1, 4 - 3); one height down two cells of 2.
    torch.testing.assert_close(grad_locations.view(4, 2)[0], torch.tensor([2 * slope, 4 * slope]))
    assert grad_locations.view(4, 2)[1:].abs().max() == 0
    torch.testing.assert_close(grad_weights.flatten(), torch.tensor([2.5 * slope, 0.0, 0.0, 0.0]))


def test_no_queries_give_no_results_and_gradients_of_zero(interpreter: None) -> None:
    result, grad_value, grad_locations, _ = run(
        triton_deformable_attention, inputs(SHAPES, queries=0), SHAPES
    )
    assert result.shape == (2, 0, 6)
    assert grad_locations.shape == (2, 0, 2, 3, 2, 2)
    assert grad_value.abs().max() == 0


def test_the_operators_are_registered_as_pytorch_wants_them(interpreter: None) -> None:
    value, locations, weights = (t.requires_grad_() for t in inputs([(2, 2)], queries=2))
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")  # the fourth compiles: below
    torch.library.opcheck(triton._attend, (value, [2, 2], locations, weights), test_utils=checks)
    given = torch.ones(2, 2, 6), value.detach(), [2, 2], locations.detach(), weights.detach()
    torch.library.opcheck(triton._attend_backward, given, test_utils=checks)


def test_code_compiled_for_any_size_calls_the_kernels_without_a_break(interpreter: None) -> None:
    def doubled(*arguments: object) -> Tensor:
        return 2 * triton_deformable_attention(*arguments)  # type: ignore[arg-type]

    compiled = torch.compile(doubled, backend="aot_eager", fullgraph=True, dynamic=True)
    for shapes in ([(2, 3), (4, 6)], [(3, 4), (5, 7)]):
        tensors = inputs(shapes, queries=3)
        for ours, expected in zip(run(compiled, tensors, shapes), run(doubled, tensors, shapes), strict=True):
            torch.testing.assert_close(ours, expected)


def attention_module() -> MultiScaleDeformableAttention:
    return fill_by_name(MultiScaleDeformableAttention(dim=8, heads=2, points=2, levels=3))


def module_inputs(device: torch.device = CPU) -> tuple[Tensor, ...]:
    sizes = torch.tensor([[w, h] for h, w in SHAPES], dtype=torch.float32)
    references = random("references", 1, 4, 2).sigmoid()
    return tuple(t.to(device) for t in (random("q", 2, 4, 8), references, random("v", 2, 65, 8), sizes))


def attend(module: torch.nn.Module, device: torch.device = CPU) -> Tensor:
    query, references, value, sizes = module_inputs(device)
    result: Tensor = module(query, references, value, SHAPES, sizes)
    return result


def test_a_module_with_the_kernels_works_under_autocast(interpreter: None) -> None:
    module = attention_module()
    expected = attend(module)
    module.function = triton_deformable_attention
    torch.testing.assert_close(attend(module), expected)
    with torch.autocast("cpu", torch.bfloat16):  # bfloat16 values, float32 places
        half = attend(module)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected, atol=0.05, rtol=0.05)
    half.float().sum().backward()
    assert module.sampling_offsets.weight.grad.abs().max() > 0


def test_an_exported_program_holds_pytorchs_operators_only(interpreter: None) -> None:
    class Wrapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = attention_module()

        def forward(self, query: Tensor, references: Tensor, value: Tensor, sizes: Tensor) -> Tensor:
            result: Tensor = self.inner(query, references, value, SHAPES, sizes)
            return result

    wrapped = Wrapped()
    expected = attend(wrapped.inner)
    wrapped.inner.function = triton_deformable_attention
    program = torch.export.export(wrapped, module_inputs())
    assert "cmpf" not in program.graph_module.code
    torch.testing.assert_close(program.module()(*module_inputs()), expected)


def test_tensors_on_the_cpu_take_pytorchs_way() -> None:
    tensors = inputs(SHAPES, queries=3)
    found, expected = (run(f, tensors, SHAPES) for f in (triton_deformable_attention, deformable_attention))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_images_too_large_for_32_bits_take_pytorchs_way(
    interpreter: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    value, locations, weights = inputs(SHAPES, queries=3)  # 65 * 2 * 3 = 390 numbers an image
    monkeypatch.setattr(triton, "_attend", lambda *_: pytest.fail("kernels ran"))
    monkeypatch.setattr(triton, "MAX_OFFSET", 389)
    expected = deformable_attention(value, SHAPES, locations, weights)
    assert torch.equal(triton_deformable_attention(value, SHAPES, locations, weights), expected)


def test_sizes_and_devices_that_do_not_fit_are_refused_before_a_kernel_reads_them(interpreter: None) -> None:
    value, locations, weights = inputs(SHAPES, queries=3)
    with pytest.raises(ValueError, match=r"needed are \(B, 64, M, D\), \(B, Q, M, 3, P, 2\)"):
        triton_deformable_attention(value, [(2, 3), (4, 6), (2, 17)], locations, weights)  # 6 + 24 + 34 = 64
    with pytest.raises(ValueError, match=r"locations \(2, 2, 2, 3, 2, 2\) and weights \(2, 3, 2, 3, 2\)"):
        triton_deformable_attention(value, SHAPES, locations[:, :2], weights)
    with pytest.raises(ValueError, match="values on cpu, locations on meta, weights on cpu; move all to one"):
        triton._check(value, [2, 3, 4, 6, 5, 7], locations.to("meta"), weights)


def test_deterministic_training_is_refused_or_warned_about(interpreter: None) -> None:
    tensors = inputs([(2, 2)], queries=1)
    try:
        torch.use_deterministic_algorithms(True)
        with pytest.raises(RuntimeError, match="sums in no fixed order on CUDA"):
            run(triton_deformable_attention, tensors, [(2, 2)])
        torch.use_deterministic_algorithms(True, warn_only=True)
        with pytest.warns(UserWarning, match="sums in no fixed order on CUDA"):
            run(triton_deformable_attention, tensors, [(2, 2)])
    finally:
        torch.use_deterministic_algorithms(False)


def test_the_trial_agrees_with_pytorch(interpreter: None) -> None:
    assert triton._trial_error(CPU) < 1e-5


def test_a_wrong_kernel_fails_the_trial(interpreter: None, monkeypatch: pytest.MonkeyPatch) -> None:
    backward = kernels.backward

    def twice(*arguments: object) -> tuple[Tensor, ...]:
        grad_value, grad_locations, grad_weights = backward(*arguments)  # type: ignore[arg-type]
        return grad_value, 2 * grad_locations, grad_weights

    monkeypatch.setattr(kernels, "backward", twice)
    assert triton._trial_error(CPU) > 0.1


def test_what_hinders_the_kernels_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def issue(device: torch.device) -> str | None:
        triton_issue.cache_clear()
        return triton_issue(device)

    def broken(device: torch.device) -> float:
        raise RuntimeError("Failed to find\n C compiler")

    monkeypatch.setattr(kernels, "installed", lambda: False)
    assert issue(CUDA) == "Triton is not installed"
    monkeypatch.setattr(kernels, "installed", lambda: True)
    assert issue(CPU) == "it needs CUDA and the device is cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert issue(CUDA) == "CUDA is not available"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(triton, "_trial_error", broken)
    assert issue(CUDA) == "a trial failed with RuntimeError: Failed to find C compiler"
    monkeypatch.setattr(triton, "_trial_error", lambda device: 0.25)
    assert issue(CUDA) == "a trial differs from PyTorch by 0.25"
    monkeypatch.setattr(triton, "_trial_error", lambda device: 1e-6)
    assert issue(CUDA) is None


def half_of_published(device: torch.device) -> tuple[tuple[Tensor, ...], list[tuple[int, int]]]:
    """An image of 512 x 512 with the published 8 heads of 32 numbers, 3 levels and 4 points."""
    shapes = [(16, 16), (32, 32), (64, 64)]
    places = sum(h * w for h, w in shapes)
    locations = random("l", 1, places, 8, 3, 4, 2).sigmoid() * 1.4 - 0.2
    weights = random("w", 1, places, 8, 12).softmax(-1).view(1, places, 8, 3, 4)
    return tuple(t.to(device) for t in (random("v", 1, places, 8, 32), locations, weights)), shapes


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_results_and_gradients_on_cuda_are_those_of_float64(dtype: torch.dtype) -> None:
    assert triton_issue(CUDA) is None
    assert_agrees(tuple(t.to(dtype) for t in inputs(SHAPES, queries=19, device=CUDA)), SHAPES)
    tensors, shapes = half_of_published(CUDA)  # large enough for configurations to be tried
    assert_agrees((tensors[0].to(dtype), *tensors[1:]), shapes)


@pytest.mark.gpu
def test_the_kernels_are_chosen_on_cuda_and_keep_little_memory() -> None:
    function = choose_deformable_attention("auto", CUDA)
    assert function is triton_deformable_attention
    tensors, shapes = half_of_published(CUDA)
    peaks = []
    for attention in (function, deformable_attention):
        run(attention, tensors, shapes)
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run(attention, tensors, shapes)
        peaks.append(torch.cuda.max_memory_allocated() - before)
    assert peaks[0] < peaks[1] / 2


@pytest.mark.gpu
def test_compiled_modules_on_cuda_agree_with_pytorch() -> None:
    module = attention_module().to(CUDA)
    expected = attend(module, CUDA)
    module.function = choose_deformable_attention("triton", CUDA)
    torch.testing.assert_close(attend(torch.compile(module), CUDA), expected, atol=1e-4, rtol=1e-4)
