# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Deformable attention by Triton kernels, as a differentiable custom operator for torch.compile and autocast.

The gradient of the values is accumulated atomically, so it differs in the last bits from run to run, like that of
grid_sample on CUDA.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from cmpf.modeling.deformable import kernels
from cmpf.modeling.deformable.ops import deformable_attention

MAX_OFFSET = 2**31 - 1  # the kernels use 32-bit offsets within an image
NOT_DETERMINISTIC = (
    "the backward pass of deformable attention sums in no fixed order on CUDA, with Triton as with PyTorch; "
    "call torch.use_deterministic_algorithms(True, warn_only=True) to train anyway"
)


def triton_deformable_attention(
    value_BSMD: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """`deformable_attention` by Triton kernels if the tensors are on CUDA, otherwise by PyTorch.

    Each of the three tensors may be float32, bfloat16, float16 or float64. Sums are accumulated in float32 (float64 for
    float64 values). The result has the dtype of the values, and each gradient that of its tensor. Infinite locations
    sample zeros. torch.export uses PyTorch's operators, which do not need Triton.

    Args:
        value_BSMD, shapes, locations, weights: see `deformable_attention`; any strides.
    Returns:
        (B, Q, M * D).
    Raises:
        ValueError: shapes or devices do not match.
    """
    if torch.compiler.is_exporting() or not _uses_kernels(value_BSMD, locations):
        return deformable_attention(value_BSMD, shapes, locations, weights)
    flat_shapes = [size for shape in shapes for size in shape]
    output: Tensor = _attend(value_BSMD, flat_shapes, locations, weights)
    return output


@lru_cache(maxsize=8)
def triton_issue(device: torch.device) -> str | None:
    """Why the kernels cannot run on a device; None = they run.

    A small trial run finds what version checks cannot: an old GPU, an incompatible driver, or a missing C compiler for
    Triton's launcher.
    """
    if not kernels.installed():
        return "Triton is not installed"
    if device.type != "cuda":
        return f"it needs CUDA and the device is {device}"
    if not torch.cuda.is_available():
        return "CUDA is not available"
    try:
        difference = _trial_error(device)
    except Exception as error:  # from Triton, the driver or a compiler: PyTorch's implementation needs none
        return f"a trial failed with {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return None if difference < 1e-3 else f"a trial differs from PyTorch by {difference:.3g}"


def _uses_kernels(value: Tensor, locations: Tensor) -> bool:
    on_device = value.is_cuda or kernels.interpreting()
    return on_device and max(value[0].numel(), locations[0].numel()) <= MAX_OFFSET


def _trial_error(device: torch.device) -> float:
    """Largest difference from PyTorch in output and gradients, for one 4 x 4 map and the published heads and points."""
    grad = torch.linspace(-1, 1, 16 * 8 * 32, device=device)
    locations = torch.linspace(-0.2, 1.2, 16 * 8 * 8, device=device).view(1, 16, 8, 1, 4, 2)
    weights = torch.linspace(0, 1, 16 * 8 * 4, device=device).view(1, 16, 8, 1, 4)
    inputs = grad.sin().view(1, 16, 8, 32), locations, weights
    results = []
    for function in (triton_deformable_attention, deformable_attention):
        value, locations, weights = (t.detach().requires_grad_() for t in inputs)
        with torch.enable_grad():
            output = function(value, [(4, 4)], locations, weights)
            gradients = torch.autograd.grad(output, (value, locations, weights), grad.view_as(output))
        results.append((output.detach(), *gradients))
    return max(float((a - b).abs().max()) for a, b in zip(*results, strict=True))


@torch.library.custom_op(
    "cmpf::deformable_attention",
    mutates_args=(),
    schema="(Tensor value, SymInt[] shapes, Tensor locations, Tensor weights) -> Tensor",
)
def _attend(value: Tensor, shapes: list[int], locations: Tensor, weights: Tensor) -> Tensor:
    _check(value, shapes, locations, weights)
    return kernels.forward(value, shapes, locations, weights)


@torch.library.custom_op(
    "cmpf::deformable_attention_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor value, SymInt[] shapes, Tensor locations, Tensor weights)"
    " -> (Tensor, Tensor, Tensor)",
)
def _attend_backward(
    grad: Tensor, value: Tensor, shapes: list[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    if torch.are_deterministic_algorithms_enabled():
        if not torch.is_deterministic_algorithms_warn_only_enabled():
            raise RuntimeError(NOT_DETERMINISTIC)
        warnings.warn(NOT_DETERMINISTIC, stacklevel=2)
    return kernels.backward(grad, value, shapes, locations, weights)


@_attend.register_fake
def _attend_fake(value: Tensor, shapes: list[int], locations: Tensor, weights: Tensor) -> Tensor:
    B, _, M, D = value.shape
    return value.new_empty(B, locations.shape[1], M * D)


@_attend_backward.register_fake
def _attend_backward_fake(
    grad: Tensor, value: Tensor, shapes: list[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        value.new_empty(value.shape),
        locations.new_empty(locations.shape),
        weights.new_empty(weights.shape),
    )


def _setup_context(ctx: Any, inputs: tuple[Tensor, list[int], Tensor, Tensor], output: Tensor) -> None:
    value, ctx.shapes, locations, weights = inputs
    ctx.save_for_backward(value, locations, weights)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
    value, locations, weights = ctx.saved_tensors
    grad_value, grad_locations, grad_weights = _attend_backward(grad, value, ctx.shapes, locations, weights)
    return grad_value, None, grad_locations, grad_weights


_attend.register_autograd(_backward, setup_context=_setup_context)


def _check(value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor) -> None:
    """Raises ValueError unless shapes and devices match; the kernels do not check memory bounds."""
    B, S, M = value.shape[:3]
    num_cells = sum(h * w for h, w in zip(shapes[::2], shapes[1::2], strict=True))
    expected = (B, locations.shape[1], M, len(shapes) // 2, weights.shape[-1])
    if num_cells != S or tuple(weights.shape) != expected or tuple(locations.shape) != (*expected, 2):
        raise ValueError(
            f"deformable attention over levels {list(shapes)} (height, width of each): values "
            f"{tuple(value.shape)}, locations {tuple(locations.shape)} and weights {tuple(weights.shape)} do not "
            f"fit; needed are (B, {num_cells}, M, D), (B, Q, M, {len(shapes) // 2}, P, 2) and the same without 2"
        )
    if len({value.device, locations.device, weights.device}) > 1:
        raise ValueError(
            f"deformable attention: values on {value.device}, locations on {locations.device}, weights on "
            f"{weights.device}; move all to one device"
        )
