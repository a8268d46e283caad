# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Triton kernels of multi-scale deformable attention, forward and backward, and their launches.

A program computes BLOCK_Q queries of one head of one image. All tensors are contiguous. Sums are accumulated in
ACC (float32; float64 for float64 values), whatever the dtypes of the tensors. The kernels are plain functions
that use only Triton's builtins and `tl.sum`, so that they are compiled on first use and tests can interpret them on a
CPU.
"""

from __future__ import annotations

import inspect
import os
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cmpf.common.tensors import device_constant

try:
    import triton
    import triton.language as tl
except ImportError:  # not part of PyTorch's CPU builds; cmpf.modeling.deformable.triton tells the user
    triton = tl = None

MIN_TUNED_BUCKET = 14  # inputs with fewer than 2^14 (image, query, head) triples are not autotuned
MAX_TILE = 8192  # elements of each array that a program holds at most


def forward_kernel(
    value_ptr: tl.tensor, levels_ptr: tl.tensor, locations_ptr: tl.tensor, weights_ptr: tl.tensor,
    output_ptr: tl.tensor,
    num_queries: tl.tensor, num_cells: tl.tensor, num_levels: tl.tensor, bucket: tl.tensor,
    M: tl.constexpr, P: tl.constexpr, D: tl.constexpr,
    BLOCK_D: tl.constexpr, ACC: tl.constexpr, BLOCK_Q: tl.constexpr,
) -> None:  # fmt: skip
    """Weighted sums of bilinear samples.

    `levels_ptr` points to (height, width, first cell) of each level; `bucket` is only a key of the autotuner.
    """
    head, image = tl.program_id(1), tl.program_id(2).to(tl.int64)
    q = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    d = tl.arange(0, BLOCK_D)
    valid = q < num_queries
    output_row = (image * num_queries + q) * M + head
    values = value_ptr + image * num_cells * (M * D) + head * D
    output = tl.full((BLOCK_Q, BLOCK_D), 0, ACC)
    for level in range(num_levels):
        height, width = tl.load(levels_ptr + 3 * level), tl.load(levels_ptr + 3 * level + 1)
        start = tl.load(levels_ptr + 3 * level + 2)
        for point in tl.static_range(P):
            sample = (output_row * num_levels + level) * P + point
            weight = tl.load(weights_ptr + sample, mask=valid, other=0).to(ACC)
            x = tl.load(locations_ptr + 2 * sample, mask=valid, other=0).to(ACC) * width - 0.5
            y = tl.load(locations_ptr + 2 * sample + 1, mask=valid, other=0).to(ACC) * height - 0.5
            # Clamped against int32 overflow; samples two cells outside are zero as well.
            x, y = tl.minimum(tl.maximum(x, -2.0), width + 1.0), tl.minimum(tl.maximum(y, -2.0), height + 1.0)
            left, top = tl.floor(x), tl.floor(y)
            for corner in tl.static_range(4):
                cell_x, cell_y = left.to(tl.int32) + corner % 2, top.to(tl.int32) + corner // 2
                inside = valid & (cell_x >= 0) & (cell_x < width) & (cell_y >= 0) & (cell_y < height)
                weight_x = x - left if corner % 2 == 1 else left + 1 - x
                weight_y = y - top if corner // 2 == 1 else top + 1 - y
                cell = (start + cell_y * width + cell_x) * (M * D)
                mask = inside[:, None] & (d < D)[None, :]
                value = tl.load(values + cell[:, None] + d[None, :], mask=mask, other=0).to(ACC)
                output += (weight * weight_x * weight_y)[:, None] * value
    mask = valid[:, None] & (d < D)[None, :]
    output = output.to(output_ptr.dtype.element_ty)
    tl.store(output_ptr + output_row[:, None] * D + d[None, :], output, mask=mask)


def backward_kernel(
    grad_ptr: tl.tensor, value_ptr: tl.tensor, levels_ptr: tl.tensor, locations_ptr: tl.tensor, weights_ptr: tl.tensor,
    grad_value_ptr: tl.tensor, grad_locations_ptr: tl.tensor, grad_weights_ptr: tl.tensor,
    num_queries: tl.tensor, num_cells: tl.tensor, num_levels: tl.tensor, bucket: tl.tensor,
    M: tl.constexpr, P: tl.constexpr, D: tl.constexpr,
    BLOCK_D: tl.constexpr, ACC: tl.constexpr, BLOCK_Q: tl.constexpr,
) -> None:  # fmt: skip
    """Gradients. `grad_value`, in ACC, must be zero; it is accumulated atomically, in no fixed order."""
    head, image = tl.program_id(1), tl.program_id(2).to(tl.int64)
    q = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    d = tl.arange(0, BLOCK_D)
    valid = q < num_queries
    output_row = (image * num_queries + q) * M + head
    map_offset = image * num_cells * (M * D) + head * D
    mask = valid[:, None] & (d < D)[None, :]
    grad = tl.load(grad_ptr + output_row[:, None] * D + d[None, :], mask=mask, other=0).to(ACC)
    for level in range(num_levels):
        height, width = tl.load(levels_ptr + 3 * level), tl.load(levels_ptr + 3 * level + 1)
        start = tl.load(levels_ptr + 3 * level + 2)
        for point in tl.static_range(P):
            sample = (output_row * num_levels + level) * P + point
            weight = tl.load(weights_ptr + sample, mask=valid, other=0).to(ACC)
            x = tl.load(locations_ptr + 2 * sample, mask=valid, other=0).to(ACC) * width - 0.5
            y = tl.load(locations_ptr + 2 * sample + 1, mask=valid, other=0).to(ACC) * height - 0.5
            x, y = tl.minimum(tl.maximum(x, -2.0), width + 1.0), tl.minimum(tl.maximum(y, -2.0), height + 1.0)
            left, top = tl.floor(x), tl.floor(y)
            grad_x, grad_y = tl.full((BLOCK_Q,), 0, ACC), tl.full((BLOCK_Q,), 0, ACC)
            grad_weight = tl.full((BLOCK_Q,), 0, ACC)
            for corner in tl.static_range(4):
                cell_x, cell_y = left.to(tl.int32) + corner % 2, top.to(tl.int32) + corner // 2
                inside = valid & (cell_x >= 0) & (cell_x < width) & (cell_y >= 0) & (cell_y < height)
                weight_x = x - left if corner % 2 == 1 else left + 1 - x
                weight_y = y - top if corner // 2 == 1 else top + 1 - y
                cell = map_offset + (start + cell_y * width + cell_x) * (M * D)
                mask = inside[:, None] & (d < D)[None, :]
                value = tl.load(value_ptr + cell[:, None] + d[None, :], mask=mask, other=0).to(ACC)
                dot = tl.sum(value * grad, 1)  # gradient of the corner's total weight
                grad_weight += weight_x * weight_y * dot
                grad_x += (2 * (corner % 2) - 1) * weight_y * dot
                grad_y += (2 * (corner // 2) - 1) * weight_x * dot
                added = (weight * weight_x * weight_y)[:, None] * grad
                tl.atomic_add(grad_value_ptr + cell[:, None] + d[None, :], added, mask=mask, sem="relaxed")
            dtype = grad_weights_ptr.dtype.element_ty
            tl.store(grad_weights_ptr + sample, grad_weight.to(dtype), mask=valid)
            dtype = grad_locations_ptr.dtype.element_ty
            grad_x, grad_y = weight * grad_x * width, weight * grad_y * height
            tl.store(grad_locations_ptr + 2 * sample, grad_x.to(dtype), mask=valid)
            tl.store(grad_locations_ptr + 2 * sample + 1, grad_y.to(dtype), mask=valid)


def installed() -> bool:
    """Whether Triton can be imported."""
    return triton is not None


def interpreting() -> bool:
    """Whether Triton interprets kernels on the CPU (TRITON_INTERPRET=1), for tests."""
    return installed() and os.environ.get("TRITON_INTERPRET") == "1"


class Kernels(NamedTuple):
    """Both kernels; Triton compiles them on the first call with each combination of dtypes and constants."""

    forward: Any
    backward: Any


@lru_cache(maxsize=1)
def autotuned() -> Kernels:
    """The kernels, autotuned by bucket, heads, points and head width.

    Autotuning takes seconds for each power of two of outputs. Triton versions that can keep its result on disk do so
    (in TRITON_CACHE_DIR, like the compiled kernels).
    """
    sizes = ["num_queries", "num_cells", "num_levels", "bucket"]  # other image sizes do not recompile
    options: dict[str, Any] = {
        "key": ["bucket", "M", "P", "D"],
        "prune_configs_by": {"early_config_prune": _prune_configs},
    }
    if "cache_results" in inspect.signature(triton.autotune).parameters:
        options["cache_results"] = True

    def autotune(kernel: Any, **more_options: Any) -> Any:
        return triton.autotune(_configs(), **options, **more_options)(
            triton.jit(kernel, do_not_specialize=sizes)
        )

    return Kernels(autotune(forward_kernel), autotune(backward_kernel, reset_to_zero=["grad_value_ptr"]))


def _configs() -> list[Any]:
    """Configurations to try; small inputs and the interpreter use the first."""
    blocks_and_warps = [(16, 2), (32, 2), (32, 4), (64, 4), (128, 8)]
    configs = [triton.Config({"BLOCK_Q": block}, num_warps=warps) for block, warps in blocks_and_warps]
    return configs[:1] if interpreting() else configs


def _prune_configs(configs: list[Any], named_args: dict[str, Any], **constants: Any) -> list[Any]:
    """Configurations worth trying: the first for small inputs, otherwise those whose tiles are not too large."""
    arguments = {**named_args, **constants}
    fitting = [c for c in configs if c.kwargs["BLOCK_Q"] * arguments["BLOCK_D"] <= MAX_TILE]
    return configs[:1] if arguments["bucket"] < MIN_TUNED_BUCKET else fitting or configs[:1]


def forward(value: Tensor, shapes: list[int], locations: Tensor, weights: Tensor) -> Tensor:
    """(B, Q, M * D) in the dtype of the values; sizes are not checked here."""
    value, locations, weights = value.contiguous(), locations.contiguous(), weights.contiguous()
    B, _, M, D = value.shape
    output = value.new_empty(B, locations.shape[1], M * D)
    _launch(
        autotuned().forward,
        (value, _level_table(shapes, value.device), locations, weights, output),
        value,
        locations,
    )
    return output


def backward(
    grad: Tensor, value: Tensor, shapes: list[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of values, locations and weights, each in the dtype of its tensor."""
    value, locations, weights = value.contiguous(), locations.contiguous(), weights.contiguous()
    grad_value = torch.zeros_like(value, dtype=_accumulation_dtype(value))
    grad_locations, grad_weights = torch.empty_like(locations), torch.empty_like(weights)
    inputs = grad.contiguous(), value, _level_table(shapes, value.device), locations, weights
    outputs = grad_value, grad_locations, grad_weights
    _launch(autotuned().backward, (*inputs, *outputs), value, locations)
    return grad_value.to(value.dtype), grad_locations, grad_weights


def _launch(kernel: Any, tensors: tuple[Tensor, ...], value: Tensor, locations: Tensor) -> None:
    B, S, M, D = value.shape
    Q, L, P = locations.shape[1], locations.shape[3], locations.shape[4]
    if B * Q * M * D == 0:
        return  # CUDA refuses an empty grid
    # Triton launches on the current device; -1 does not change it.
    with torch.cuda.device(value.device.index if value.is_cuda else -1):
        kernel[lambda meta: (triton.cdiv(Q, meta["BLOCK_Q"]), M, B)](
            *tensors, Q, S, L, (B * Q * M).bit_length(),
            M=M, P=P, D=D, BLOCK_D=triton.next_power_of_2(D),
            ACC=tl.float64 if value.dtype == torch.float64 else tl.float32,
            enable_fp_fusion=True,  # explicit, because Triton warns that the default will change
        )  # fmt: skip


def _accumulation_dtype(value: Tensor) -> torch.dtype:
    return torch.float64 if value.dtype == torch.float64 else torch.float32


def _level_table(shapes: list[int], device: torch.device) -> Tensor:
    """(L, 3) int32: height, width and first cell of each level."""
    rows, start = [], 0
    for h, w in zip(shapes[::2], shapes[1::2], strict=True):
        rows.append((h, w, start))
        start += h * w
    return device_constant(tuple(rows), dtype=torch.int32, device=device)
