# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Int8 linear layers by oneDNN, for CPUs with VNNI instructions (MODEL.CMPF.PRECISION int8).

Weights are quantized once, symmetrically, with one scale per output channel. Inputs are quantized dynamically, with
one scale and zero point per call.
"""

from __future__ import annotations

import logging
import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

CHUNK = 1 << 18  # elements that are quantized at a time, so that they stay in the processor's cache
WEIGHT_MAX, INPUT_MAX = 127, 255  # weights are symmetric int8, inputs uint8
_TINY = torch.finfo(torch.float32).tiny


class Int8Weight(NamedTuple):
    """A quantized weight.

    packed: int8, in oneDNN's layout.
    scales: (out_features,) float32.
    zero_points: (out_features,) int64, all 0.
    """

    packed: Tensor
    scales: Tensor
    zero_points: Tensor


def quantize_weight(weight: Tensor) -> Int8Weight:
    """Quantizes a float32 weight (out_features, in_features); the largest magnitude of each row maps to 127."""
    scales = weight.abs().amax(dim=1).clamp(min=_TINY) / WEIGHT_MAX
    quantized = (weight / scales[:, None]).round().to(torch.int8)
    packed = torch.ops.onednn.qlinear_prepack(quantized, None)
    return Int8Weight(packed, scales, torch.zeros(len(weight), dtype=torch.int64))


def int8_linear(x: Tensor, weight: Int8Weight, bias: Tensor | None, *, gelu: bool = False) -> Tensor:
    """F.linear in int8 arithmetic, followed by the exact GELU if `gelu` is set.

    Args:
        x: (..., in_features) float32, not empty.
    Returns:
        (..., out_features) float32; all NaN if x is not finite.
    """
    quantized, scale, zero_point = _quantize_input(x)
    output: Tensor = torch.ops.onednn.qlinear_pointwise(
        quantized, scale, zero_point, *weight, bias, 1.0, 0, torch.float32,
        "gelu" if gelu else "none", [], "none" if gelu else "",
    )  # fmt: skip
    return output


@lru_cache(maxsize=1)
def int8_works() -> bool:
    """Whether oneDNN sums int8 products exactly; without VNNI it sums pairs of them in 16 bits, which overflow."""
    x, weight = torch.ones(16, 64, device="cpu"), torch.ones(32, 64, device="cpu")
    try:
        output = int8_linear(x, quantize_weight(weight), None)
    except (AttributeError, RuntimeError, TypeError) as error:
        logger.debug("oneDNN's int8 linear layer does not work: %s", error)
        return False
    return torch.allclose(output, torch.full_like(output, 64.0))


def _quantize_input(x: Tensor) -> tuple[Tensor, float, int]:
    """uint8 values, scale and zero point of x. The range includes 0, which is represented exactly."""
    low, high = (float(limit) for limit in x.aminmax())
    if not math.isfinite(high - low):
        return torch.zeros(x.shape, dtype=torch.uint8, device=x.device), math.nan, 0
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max((high - low) / INPUT_MAX, _TINY)
    zero_point = round(-low / scale)
    quantized = torch.empty(x.shape, dtype=torch.uint8, device=x.device)
    rows = max(1, CHUNK // x.shape[-1])
    sources, targets = (torch.split(t.reshape(-1, x.shape[-1]), rows) for t in (x, quantized))
    for source, target in zip(sources, targets, strict=True):
        target.copy_((source * (1 / scale)).add_(zero_point + 0.5))  # conversion to uint8 rounds down
    return quantized, scale, zero_point
