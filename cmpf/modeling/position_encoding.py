# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Fixed sine position encoding of a feature map."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cmpf.errors import ConfigError

TEMPERATURE = 10000.0
EPSILON = 1e-6


def sine_position_encoding(
    height: int, width: int, channels: int, *, device: torch.device | str, dtype: torch.dtype
) -> Tensor:
    """Sine encoding of rows and columns, normalized by the map's size (DETR; paper Sec. 3).

    Rows count 1..h and columns 1..w, divided by h + 1e-6 and w + 1e-6, times 2 pi. The first half of the
    channels encodes y, the second x; in each half sine and cosine of one frequency stand next to each other.

    Args:
        height, width: size of the map.
        channels: a multiple of 4.
    Returns:
        (1, channels, height, width), values in -1..1.
    Raises:
        ConfigError: channels is not a multiple of 4.
    """
    if channels % 4:
        raise ConfigError(f"sine position encoding of {channels} channels: use a multiple of 4")
    y = _encode_axis(height, channels // 2, device)[:, :, None].expand(-1, -1, width)
    x = _encode_axis(width, channels // 2, device)[:, None, :].expand(-1, height, -1)
    return torch.cat([y, x])[None].to(dtype)


def _encode_axis(length: int, features: int, device: torch.device | str) -> Tensor:
    """(features, length) float32 encoding of the places 1..length on one axis."""
    places = (
        torch.arange(1, length + 1, device=device, dtype=torch.float32) / (length + EPSILON) * 2 * math.pi
    )
    exponents = torch.arange(0, features, 2, device=device, dtype=torch.float32) / features
    angles = places[None, :] / TEMPERATURE ** exponents[:, None]
    return torch.stack([angles.sin(), angles.cos()], dim=1).flatten(0, 1)
