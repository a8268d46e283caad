# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Deformable attention by Triton kernels: an operator of PyTorch with gradients, for torch.compile and autocast.

The gradient of the values is summed atomically: two runs differ in the last bits, as those of grid_sample on CUDA do.
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

MAX_OFFSET = 2**31 - 1  # the kernels count inside an image with 32 bits
NOT_DETERMINISTIC = (
    "the backward pass of deformable attention sums in no fixed order on CUDA, with Triton as with PyTorch; "
    "call torch.use_deterministic_algorithms(True, warn_only=True) to train anyway"
)


def triton_deformable_attention(
    value_BSMD: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """`deformable_attention` by Triton kernels where the tensors are on CUDA, else by PyTorch.

    The three tensors may be float32, bfloat16, float16 or float64, each its own; sums are float32 (float64 for float64
    values), the result has the type of the values and each gradient that of its tensor. Places that are infinitely
    far read zeros. torch.export takes PyTorch's operators, which other machines can run.

    Args:
        value_BSMD, shapes, locations, weights: see `deformable_attention`; any strides.
    Returns:
        (B, Q, M * D).
    Raises:
        ValueError: the sizes do not fit together.
    """
    if torch.compiler.is_exporting() or not _runs_kernels(value_BSMD, locations):
        return deformable_attention(value_BSMD, shapes, locations, weights)
    flat = [size for shape in shapes for size in shape]
    result: Tensor = _attend(value_BSMD, flat, locations, weights)
    return result


@lru_cache(maxsize=8)
def triton_issue(device: torch.device) -> str | None:
    """Why the kernels cannot run on a device, found by a small trial; None = they run.

    The trial tells what asking for versions cannot: an old GPU, a driver that does not fit, no C compiler for
    Triton's launcher.
    """
    if not kernels.installed():
        return "Triton is not installed"
    if device.type != "cuda":
        return f"it needs CUDA and the device is {device}"
    if not torch.cuda.is_available():
        return "CUDA is not available"
    try:
        difference = _trial(device)
    except (
        Exception
    ) as error:  # whatever Triton, the driver or a compiler throws: PyTorch's way works without them
        return f"a trial failed with {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return None if difference < 1e-3 else f"a trial differs from PyTorch by {difference:.3g}"


def _runs_kernels(value: Tensor, locations: Tensor) -> bool:
    on_device = value.is_cuda or kernels.interpreting()
    return on_device and max(value[0].numel(), locations[0].numel()) <= MAX_OFFSET


def _trial(device: torch.device) -> float:
    """Largest difference from PyTorch in result and gradients on a map of 4 x 4 with the published heads."""
    numbers = torch.linspace(-1, 1, 16 * 8 * 32, device=device)
    given = numbers.sin().view(1, 16, 8, 32), torch.linspace(-0.2, 1.2, 16 * 8 * 8, device=device)
    tensors = given[0], given[1].view(1, 16, 8, 1, 4, 2), torch.linspace(0, 1, 512, device=device)
    found = []
    for function in (triton_deformable_attention, deformable_attention):
        value, locations, weights = (t.detach().requires_grad_() for t in tensors)
        with torch.enable_grad():
            result = function(value, [(4, 4)], locations, weights.view(1, 16, 8, 1, 4))
            gradients = torch.autograd.grad(
                (result * numbers.view_as(result)).sum(), (value, locations, weights)
            )
        found.append((result.detach(), *gradients))
    return max(float((a - b).abs().max()) for a, b in zip(*found, strict=True))


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
    first, second, third = (x.new_empty(x.shape) for x in (value, locations, weights))
    return first, second, third


def _keep(ctx: Any, inputs: tuple[Tensor, list[int], Tensor, Tensor], output: Tensor) -> None:
    value, ctx.shapes, locations, weights = inputs
    ctx.save_for_backward(value, locations, weights)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
    value, locations, weights = ctx.saved_tensors
    of_value, of_locations, of_weights = _attend_backward(grad, value, ctx.shapes, locations, weights)
    return of_value, None, of_locations, of_weights


_attend.register_autograd(_gradients, setup_context=_keep)


def _check(value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor) -> None:
    """The kernels read where these sizes say, so that a mistake must end here."""
    B, S, M = value.shape[:3]
    places = sum(h * w for h, w in zip(shapes[::2], shapes[1::2], strict=True))
    expected = (B, locations.shape[1], M, len(shapes) // 2, weights.shape[-1])
    if places != S or tuple(weights.shape) != expected or tuple(locations.shape) != (*expected, 2):
        raise ValueError(
            f"deformable attention over levels {list(shapes)} (height, width of each): values "
            f"{tuple(value.shape)}, locations {tuple(locations.shape)} and weights {tuple(weights.shape)} do not "
            f"fit; needed are (B, {places}, M, D), (B, Q, M, {len(shapes) // 2}, P, 2) and the same without 2"
        )
    if len({value.device, locations.device, weights.device}) > 1:
        raise ValueError(
            f"deformable attention: values on {value.device}, locations on {locations.device}, weights on "
            f"{weights.device}; move all to one device"
        )
