# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The predictions of all heads as one tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def stack_heads(maps: Sequence[Tensor]) -> Tensor:
    """Stacks the heads' masks behind the batch dimension, without a copy where one tensor holds them all already.

    The transformer decoder makes the masks of all heads in one product and hands out its parts. A copy of them, and
    of their gradient, would take 0.65 GB each for an image of 1024 x 1024 (10 heads, 250 queries, float32).

    Args:
        maps: L tensors (B, Q, h, w).
    Returns:
        (B, L, Q, h, w).
    """
    first, whole = maps[0], maps[0]._base
    if whole is None or not whole.is_contiguous() or whole.numel() != len(maps) * first.numel():
        return torch.stack(list(maps), dim=1)
    batch, queries, height, width = first.shape
    size = queries * height * width
    strides = (len(maps) * size, height * width, width, 1)
    for index, part in enumerate(maps):
        own = part._base is whole and part.shape == first.shape and part.stride() == strides
        if not own or part.storage_offset() != whole.storage_offset() + index * size:
            return torch.stack(list(maps), dim=1)
    return whole.view(batch, len(maps), queries, height, width)
