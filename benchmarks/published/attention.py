# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Attention as published: SAM's with its bias on the whole matrix, deformable attention as one grid_sample a level."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmpf.encoders.sam import FusedAttention
from cmpf.modeling.deformable.module import MultiScaleDeformableAttention

M = TypeVar("M", bound=nn.Module)


class UnfusedAttention(nn.Module):
    """Attention of SAM's image encoder (arXiv 2304.02643; relative positions of arXiv 2112.01526)."""

    def __init__(self, fused: FusedAttention) -> None:
        super().__init__()
        self.weights = fused

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """The full (H * W) x (H * W) matrix of every head, then its bias, its softmax, its product."""
        B, H, W, _ = x_BHWC.shape
        own = self.weights
        heads = own.num_heads
        qkv = own.qkv(x_BHWC).reshape(B, H * W, 3, heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.flatten(1, 2).unbind(0)  # (B * heads, H * W, d)
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(1, 2)
        if own.use_rel_pos:
            queries = q.view(-1, H, W, q.shape[-1])
            vertical = torch.einsum("byxc,ykc->byxk", queries, _distances(own.rel_pos_h, H))
            horizontal = torch.einsum("byxc,xkc->byxk", queries, _distances(own.rel_pos_w, W))
            bias = vertical[..., :, None] + horizontal[..., None, :]
            scores = (scores.view(-1, H, W, H, W) + bias).view(-1, H * W, H * W)
        mixed = scores.softmax(dim=-1) @ v
        mixed = mixed.view(B, heads, H * W, -1).transpose(1, 2).reshape(B, H, W, -1)
        result: Tensor = own.proj(mixed)
        return result


def grid_sample_attention(
    value_BSMD: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """As cmpf's `deformable_attention` (arXiv 2010.04159, its definition for machines without the kernel).

    All points of a level are read together, then all are weighted and summed.
    """
    B, _, M, D = value_BSMD.shape
    Q = locations.shape[1]
    grids = 2 * locations - 1
    sampled = []
    for level, value in enumerate(torch.split(value_BSMD, [h * w for h, w in shapes], dim=1)):
        maps = value.flatten(2).transpose(1, 2).reshape(B * M, D, *shapes[level])
        grid = grids[:, :, :, level].transpose(1, 2).flatten(0, 1)  # (B * M, Q, P, 2)
        sampled.append(F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False))
    shares = weights.transpose(1, 2).reshape(B * M, 1, Q, -1)
    mixed = (torch.stack(sampled, dim=-2).flatten(-2) * shares).sum(dim=-1)
    return mixed.view(B, M * D, Q).transpose(1, 2).contiguous()


def with_published_attention(module: M, *, shared: Sequence[nn.Module] = ()) -> M:
    """A copy whose SAM attention and deformable attention are the ones of this file; `shared` parts stay the same."""
    copied = copy.deepcopy(module, {id(part): part for part in shared})
    for parent in list(copied.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, FusedAttention):
                setattr(parent, name, UnfusedAttention(child))
            elif isinstance(child, MultiScaleDeformableAttention) and child.flat_levels:
                raise ValueError("flat_levels has no published formulation for machines without its kernel")
            elif isinstance(child, MultiScaleDeformableAttention):
                child.function = grid_sample_attention
    return copied


def _distances(table: Any, size: int) -> Tensor:
    """(size, size, C): the row of the table for each distance."""
    length = 2 * size - 1
    if len(table) != length:
        table = F.interpolate(table.T[None], size=length, mode="linear")[0].T
    steps = torch.arange(size, device=table.device)
    result: Tensor = table[steps[:, None] - steps + size - 1]
    return result
