# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Linear layers in int8, by oneDNN on CPUs with VNNI instructions (MODEL.CMPF.PRECISION int8).

Weights are quantized once with a scale for each output, inputs in each call with one scale and zero point.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

CHUNK = 1 << 18  # numbers that are quantized at a time, so that they stay in the processor's cache
WEIGHT_MAX, INPUT_MAX = 127, 255  # weights are symmetric int8, inputs uint8
_TINY = torch.finfo(torch.float32).tiny


class Int8Weight(NamedTuple):
    """A quantized weight in oneDNN's own layout, and the scale (float32) and zero point (int64) of each output."""

    packed: Tensor
    scales: Tensor
    zero_points: Tensor


def quantize_weight(weight: Tensor) -> Int8Weight:
    """Quantizes a weight (out_features, in_features), float32, each row by its largest magnitude."""
    scales = weight.abs().amax(dim=1).clamp(min=_TINY) / WEIGHT_MAX
    rounded = (weight / scales[:, None]).round().to(torch.int8)
    packed = torch.ops.onednn.qlinear_prepack(rounded, None)
    return Int8Weight(packed, scales, torch.zeros(len(weight), dtype=torch.int64))


def int8_linear(x: Tensor, weight: Int8Weight, bias: Tensor | None, *, gelu: bool = False) -> Tensor:
    """F.linear with quantized numbers, and the exact GELU after it if `gelu`.

    Args:
        x: (..., in_features) float32.
    Returns:
        (..., out_features) float32.
    """
    quantized, scale, zero_point = _quantize_input(x)
    result: Tensor = torch.ops.onednn.qlinear_pointwise(
        quantized, scale, zero_point, *weight, bias, 1.0, 0, torch.float32,
        "gelu" if gelu else "none", [], "none" if gelu else "",
    )  # fmt: skip
    return result


@lru_cache(maxsize=1)
def int8_works() -> bool:
    """Whether oneDNN sums int8 products exactly here; without VNNI it sums pairs of them in 16 bits, which overflow."""
    x, weight = torch.ones(16, 64, device="cpu"), torch.ones(32, 64, device="cpu")
    try:
        found = int8_linear(x, quantize_weight(weight), None)
    except (AttributeError, RuntimeError, TypeError) as error:
        logger.debug("oneDNN's int8 linear layer does not work: %s", error)
        return False
    return torch.allclose(found, torch.full_like(found, 64.0))


def _quantize_input(x: Tensor) -> tuple[Tensor, float, int]:
    """x as uint8 numbers, their scale and zero point; its whole range, and 0, which is exact."""
    low, high = (float(end) for end in x.aminmax())
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max((high - low) / INPUT_MAX, _TINY)
    zero_point = round(-low / scale)
    quantized = torch.empty(x.shape, dtype=torch.uint8, device=x.device)
    rows = max(1, CHUNK // x.shape[-1])
    sources, targets = (torch.split(each.reshape(-1, x.shape[-1]), rows) for each in (x, quantized))
    for source, target in zip(sources, targets, strict=True):
        target.copy_((source * (1 / scale)).add_(zero_point + 0.5))  # conversion to uint8 rounds down
    return quantized, scale, zero_point
