# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Triton kernels of multi-scale deformable attention, forward and backward, and their launches.

A program computes BLOCK_Q queries of one head of one image. All tensors are contiguous; sums are kept in SUM
(float32; float64 for float64 values) whatever the tensors hold. The kernels are plain functions and use nothing of
Triton's own library but its builtins and `tl.sum`, so that they compile when they are first needed and the tests can
interpret them on a CPU.
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
except ImportError:  # CPU builds of PyTorch bring no Triton; cmpf.modeling.deformable.triton tells the user
    triton = tl = None

SMALL_BUCKET = 14  # fewer than 2^14 results of a head are not worth trying configurations for
MAX_TILE = 8192  # numbers that a program holds of each array at most


def forward_kernel(
    value_ptr: tl.tensor, table_ptr: tl.tensor, locations_ptr: tl.tensor, weights_ptr: tl.tensor, output_ptr: tl.tensor,
    queries: tl.tensor, places: tl.tensor, levels: tl.tensor, bucket: tl.tensor,
    M: tl.constexpr, P: tl.constexpr, D: tl.constexpr,
    BLOCK_D: tl.constexpr, SUM: tl.constexpr, BLOCK_Q: tl.constexpr,
) -> None:  # fmt: skip
    """Weighted sums of bilinear reads; `table` holds (h, w, first place) of each level. `bucket` only picks BLOCK_Q."""
    head, image = tl.program_id(1), tl.program_id(2).to(tl.int64)
    q = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    d = tl.arange(0, BLOCK_D)
    row = (image * queries + q) * M + head
    values = value_ptr + image * places * (M * D) + head * D
    total = tl.full((BLOCK_Q, BLOCK_D), 0, SUM)
    for level in range(levels):
        height, width = tl.load(table_ptr + 3 * level), tl.load(table_ptr + 3 * level + 1)
        start = tl.load(table_ptr + 3 * level + 2)
        for point in tl.static_range(P):
            place = (row * levels + level) * P + point
            weight = tl.load(weights_ptr + place, mask=q < queries, other=0).to(SUM)
            x = tl.load(locations_ptr + 2 * place, mask=q < queries, other=0).to(SUM) * width - 0.5
            y = tl.load(locations_ptr + 2 * place + 1, mask=q < queries, other=0).to(SUM) * height - 0.5
            # Far places would leave the range of int32; two cells outside reads zeros just as well.
            x, y = tl.minimum(tl.maximum(x, -2.0), width + 1.0), tl.minimum(tl.maximum(y, -2.0), height + 1.0)
            left, top = tl.floor(x), tl.floor(y)
            for corner in tl.static_range(4):
                column, line = left.to(tl.int32) + corner % 2, top.to(tl.int32) + corner // 2
                inside = (q < queries) & (column >= 0) & (column < width) & (line >= 0) & (line < height)
                share_x = x - left if corner % 2 == 1 else left + 1 - x
                share_y = y - top if corner // 2 == 1 else top + 1 - y
                cell = (start + line * width + column) * (M * D)
                mask = inside[:, None] & (d < D)[None, :]
                read = tl.load(values + cell[:, None] + d[None, :], mask=mask, other=0).to(SUM)
                total += (weight * share_x * share_y)[:, None] * read
    mask = (q < queries)[:, None] & (d < D)[None, :]
    tl.store(output_ptr + row[:, None] * D + d[None, :], total.to(output_ptr.dtype.element_ty), mask=mask)


def backward_kernel(
    grad_ptr: tl.tensor, value_ptr: tl.tensor, table_ptr: tl.tensor, locations_ptr: tl.tensor, weights_ptr: tl.tensor,
    grad_value_ptr: tl.tensor, grad_locations_ptr: tl.tensor, grad_weights_ptr: tl.tensor,
    queries: tl.tensor, places: tl.tensor, levels: tl.tensor, bucket: tl.tensor,
    M: tl.constexpr, P: tl.constexpr, D: tl.constexpr,
    BLOCK_D: tl.constexpr, SUM: tl.constexpr, BLOCK_Q: tl.constexpr,
) -> None:  # fmt: skip
    """Gradients; `grad_value` (of type SUM) starts at zero and is added to atomically, in no fixed order."""
    head, image = tl.program_id(1), tl.program_id(2).to(tl.int64)
    q = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    d = tl.arange(0, BLOCK_D)
    row = (image * queries + q) * M + head
    map_offset = image * places * (M * D) + head * D
    mask = (q < queries)[:, None] & (d < D)[None, :]
    grad = tl.load(grad_ptr + row[:, None] * D + d[None, :], mask=mask, other=0).to(SUM)
    for level in range(levels):
        height, width = tl.load(table_ptr + 3 * level), tl.load(table_ptr + 3 * level + 1)
        start = tl.load(table_ptr + 3 * level + 2)
        for point in tl.static_range(P):
            place = (row * levels + level) * P + point
            weight = tl.load(weights_ptr + place, mask=q < queries, other=0).to(SUM)
            x = tl.load(locations_ptr + 2 * place, mask=q < queries, other=0).to(SUM) * width - 0.5
            y = tl.load(locations_ptr + 2 * place + 1, mask=q < queries, other=0).to(SUM) * height - 0.5
            x, y = tl.minimum(tl.maximum(x, -2.0), width + 1.0), tl.minimum(tl.maximum(y, -2.0), height + 1.0)
            left, top = tl.floor(x), tl.floor(y)
            grad_x, grad_y = tl.full((BLOCK_Q,), 0, SUM), tl.full((BLOCK_Q,), 0, SUM)
            grad_weight = tl.full((BLOCK_Q,), 0, SUM)
            for corner in tl.static_range(4):
                column, line = left.to(tl.int32) + corner % 2, top.to(tl.int32) + corner // 2
                inside = (q < queries) & (column >= 0) & (column < width) & (line >= 0) & (line < height)
                share_x = x - left if corner % 2 == 1 else left + 1 - x
                share_y = y - top if corner // 2 == 1 else top + 1 - y
                cell = map_offset + (start + line * width + column) * (M * D)
                mask = inside[:, None] & (d < D)[None, :]
                read = tl.load(value_ptr + cell[:, None] + d[None, :], mask=mask, other=0).to(SUM)
                along = tl.sum(read * grad, 1)  # how much more of this corner helps
                grad_weight += share_x * share_y * along
                grad_x += (2 * (corner % 2) - 1) * share_y * along
                grad_y += (2 * (corner // 2) - 1) * share_x * along
                added = (weight * share_x * share_y)[:, None] * grad
                tl.atomic_add(grad_value_ptr + cell[:, None] + d[None, :], added, mask=mask, sem="relaxed")
            stored = grad_weights_ptr.dtype.element_ty
            tl.store(grad_weights_ptr + place, grad_weight.to(stored), mask=q < queries)
            stored = grad_locations_ptr.dtype.element_ty
            grad_x, grad_y = weight * grad_x * width, weight * grad_y * height
            tl.store(grad_locations_ptr + 2 * place, grad_x.to(stored), mask=q < queries)
            tl.store(grad_locations_ptr + 2 * place + 1, grad_y.to(stored), mask=q < queries)


def installed() -> bool:
    """Whether there is a Triton at all."""
    return triton is not None


def interpreting() -> bool:
    """Whether Triton runs kernels on the CPU by its interpreter (TRITON_INTERPRET=1), for tests."""
    return installed() and os.environ.get("TRITON_INTERPRET") == "1"


class Kernels(NamedTuple):
    """Both kernels, compiled for each kind of input when it first comes."""

    forward: Any
    backward: Any


@lru_cache(maxsize=1)
def compiled() -> Kernels:
    """The kernels, with the configuration that was fastest for a kind and size of input.

    The trial of configurations takes seconds for each power of two of results; Triton versions that can keep its
    outcome on disk do (in TRITON_CACHE_DIR, like the compiled kernels).
    """
    sizes = ["queries", "places", "levels", "bucket"]  # a new size of image compiles nothing
    options: dict[str, Any] = {
        "key": ["bucket", "M", "P", "D"],
        "prune_configs_by": {"early_config_prune": _prune},
    }
    if "cache_results" in inspect.signature(triton.autotune).parameters:
        options["cache_results"] = True
    made = (
        triton.autotune(_configurations(), **options, **more)(triton.jit(kernel, do_not_specialize=sizes))
        for kernel, more in ((forward_kernel, {}), (backward_kernel, {"reset_to_zero": ["grad_value_ptr"]}))
    )
    return Kernels(*made)


def _configurations() -> list[Any]:
    """The first serves small inputs and the interpreter, which tries none."""
    tried = [(16, 2), (32, 2), (32, 4), (64, 4), (128, 8)]
    configurations = [triton.Config({"BLOCK_Q": block}, num_warps=warps) for block, warps in tried]
    return configurations[:1] if interpreting() else configurations


def _prune(configurations: list[Any], given: dict[str, Any], **more: Any) -> list[Any]:
    """The configurations worth trying: one for small inputs, no huge tiles for wide heads."""
    known = {**given, **more}
    fitting = [c for c in configurations if c.kwargs["BLOCK_Q"] * known["BLOCK_D"] <= MAX_TILE]
    return configurations[:1] if known["bucket"] < SMALL_BUCKET else fitting or configurations[:1]


def forward(value: Tensor, shapes: list[int], locations: Tensor, weights: Tensor) -> Tensor:
    """(B, Q, M * D) in the type of the values; sizes are not checked here."""
    value, locations, weights = value.contiguous(), locations.contiguous(), weights.contiguous()
    B, _, M, D = value.shape
    output = value.new_empty(B, locations.shape[1], M * D)
    _launch(compiled().forward, (value, _table(shapes, value), locations, weights, output), value, locations)
    return output


def backward(
    grad: Tensor, value: Tensor, shapes: list[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of values, locations and weights, each in the type of its tensor."""
    value, locations, weights = value.contiguous(), locations.contiguous(), weights.contiguous()
    grad_value = torch.zeros_like(value, dtype=_sum_type(value))
    grad_locations, grad_weights = torch.empty_like(locations), torch.empty_like(weights)
    read = grad.contiguous(), value, _table(shapes, value), locations, weights
    written = grad_value, grad_locations, grad_weights
    _launch(compiled().backward, (*read, *written), value, locations)
    return grad_value.to(value.dtype), grad_locations, grad_weights


def _launch(kernel: Any, tensors: tuple[Tensor, ...], value: Tensor, locations: Tensor) -> None:
    B, S, M, D = value.shape
    Q, L, P = locations.shape[1], locations.shape[3], locations.shape[4]
    if B * Q * M * D == 0:
        return  # CUDA refuses an empty grid
    # Triton launches on the current device; -1 leaves it as it is.
    with torch.cuda.device(value.device.index if value.is_cuda else -1):
        kernel[lambda meta: (triton.cdiv(Q, meta["BLOCK_Q"]), M, B)](
            *tensors, Q, S, L, (B * Q * M).bit_length(),
            M=M, P=P, D=D, BLOCK_D=triton.next_power_of_2(D),
            SUM=tl.float64 if value.dtype == torch.float64 else tl.float32,
            enable_fp_fusion=True,  # said aloud, else Triton warns that its default will change
        )  # fmt: skip


def _sum_type(value: Tensor) -> torch.dtype:
    return torch.float64 if value.dtype == torch.float64 else torch.float32


def _table(shapes: list[int], like: Tensor) -> Tensor:
    """(L, 3) int32: height, width and first place of each level."""
    rows, start = [], 0
    for h, w in zip(shapes[::2], shapes[1::2], strict=True):
        rows.append((h, w, start))
        start += h * w
    return device_constant(tuple(rows), dtype=torch.int32, device=like.device)
