# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Layers of the published network in float64, without code of cmpf."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


class Weights:
    """Entries of a state dict below a prefix, in float64."""

    def __init__(self, state: dict[str, Tensor], prefix: str = "") -> None:
        self.state, self.prefix = state, prefix

    def __call__(self, name: str) -> Tensor:
        return self.state[self.prefix + name].double()

    def under(self, prefix: str) -> Weights:
        return Weights(self.state, self.prefix + prefix)

    def count(self, name: str) -> int:
        """Number of entries whose name matches, with any index at "#"."""
        before, after = (self.prefix + name).split("#")
        return sum(key.startswith(before) and key.endswith(after) for key in self.state)


@dataclass(frozen=True)
class Sizes:
    """Sizes that the state dict does not determine: heads of both transformers, points per head, GroupNorm's groups."""

    encoder_heads: int
    points: int
    groups: int
    decoder_heads: int


@dataclass(frozen=True)
class Words:
    """Text embeddings (T, E), the class of each row, and the number of classes K."""

    rows: Tensor
    owners: list[int]
    count: int


def linear(x: Tensor, w: Weights) -> Tensor:
    return x @ w("weight").T + w("bias")


def layer_norm(x: Tensor, w: Weights) -> Tensor:
    centered = x - x.mean(dim=-1, keepdim=True)
    return centered / (centered.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt() * w("weight") + w("bias")


def group_norm(x_Chw: Tensor, w: Weights, groups: int) -> Tensor:
    grouped = x_Chw.reshape(groups, -1)
    centered = grouped - grouped.mean(dim=1, keepdim=True)
    normal = centered / (centered.square().mean(dim=1, keepdim=True) + 1e-5).sqrt()
    return normal.view(x_Chw.shape) * w("weight")[:, None, None] + w("bias")[:, None, None]


def resize_matrix(source: int, target: int) -> Tensor:
    """(target, source) weights of a bilinear resize along one axis, without corner alignment."""
    matrix = torch.zeros(target, source, dtype=torch.float64)
    for i in range(target):
        place = max((i + 0.5) * source / target - 0.5, 0.0)
        low = min(int(place), source - 1)
        high = min(low + 1, source - 1)
        matrix[i, low] += 1 - (place - low)
        matrix[i, high] += place - low
    return matrix


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """(..., h, w) -> (..., *size), bilinear."""
    return resize_matrix(x.shape[-2], size[0]) @ x @ resize_matrix(x.shape[-1], size[1]).T


def pool(features_Chw: Tensor, mask_hw: Tensor) -> Tensor:
    """Mean of the features where the resized mask is positive; zeros for an empty mask."""
    if mask_hw.shape != features_Chw.shape[1:]:
        mask_hw = resize(mask_hw, (features_Chw.shape[1], features_Chw.shape[2]))
    inside = mask_hw > 0
    return features_Chw[:, inside].sum(dim=1) / (int(inside.sum()) + 1e-8)


def sine_positions(h: int, w: int, dim: int) -> Tensor:
    """(h * w, dim) sine position embeddings: y first, sine and cosine interleaved."""
    result = torch.zeros(h, w, dim, dtype=torch.float64)
    half = dim // 2
    for channel in range(half):
        frequency = 10000 ** (2 * (channel // 2) / half)
        wave = math.sin if channel % 2 == 0 else math.cos
        for y in range(h):
            result[y, :, channel] = wave((y + 1) / (h + 1e-6) * 2 * math.pi / frequency)
        for x in range(w):
            result[:, x, half + channel] = wave((x + 1) / (w + 1e-6) * 2 * math.pi / frequency)
    return result.view(h * w, dim)


def centers(h: int, w: int) -> Tensor:
    """(h * w, 2) centers (x, y) of the cells."""
    rows = [((x + 0.5) / w, (y + 0.5) / h) for y in range(h) for x in range(w)]
    return torch.tensor(rows, dtype=torch.float64)


def read(map_hwD: Tensor, places_N2: Tensor) -> Tensor:
    """(N, D) bilinear samples at points (x, y) in 0..1, with zeros outside the map."""
    h, w = map_hwD.shape[:2]
    x, y = places_N2[:, 0] * w - 0.5, places_N2[:, 1] * h - 0.5
    left, top = x.floor().long(), y.floor().long()
    total = torch.zeros(len(places_N2), map_hwD.shape[2], dtype=torch.float64)
    for column in (left, left + 1):
        for row in (top, top + 1):
            share = (1 - (x - column).abs()) * (1 - (y - row).abs())
            there = (column >= 0) & (column < w) & (row >= 0) & (row < h)
            values = map_hwD[row.clamp(0, h - 1), column.clamp(0, w - 1)]
            total += (share * there)[:, None] * values
    return total


def convolve(x_Chw: Tensor, w: Weights, *, bias: bool = True, stride: int = 1) -> Tensor:
    weight = w("weight")
    padding = weight.shape[-1] // 2
    return F.conv2d(x_Chw[None], weight, w("bias") if bias else None, stride=stride, padding=padding)[0]


def attend(
    query: Tensor, key: Tensor, value: Tensor, w: Weights, heads: int, blocked: Tensor | None = None
) -> Tensor:
    """Multi-head attention of queries (Q, D) on keys and values (L, D); `blocked` is a mask (Q, L)."""
    weight, bias = w("in_proj_weight").chunk(3), w("in_proj_bias").chunk(3)
    q, k, v = (x @ a.T + b for x, a, b in zip((query, key, value), weight, bias, strict=True))
    width = q.shape[1] // heads
    outputs = []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        scores = q[:, part] @ k[:, part].T / math.sqrt(width)
        if blocked is not None:
            scores = scores.masked_fill(blocked, -math.inf)
        outputs.append(scores.softmax(dim=1) @ v[:, part])
    return linear(torch.cat(outputs, dim=1), w.under("out_proj."))


def mlp(x: Tensor, w: Weights) -> Tensor:
    for index in range(3):
        x = linear(x, w.under(f"layers.{index}."))
        x = x.relu() if index < 2 else x
    return x


def pool_projection(pooled: Tensor, w: Weights) -> Tensor:
    return linear(layer_norm(pooled, w.under("_mask_pooling_proj.0.")), w.under("_mask_pooling_proj.1."))


def similarity(embeddings: Tensor, words: Words, scale: float) -> Tensor:
    """(N, K): scaled cosine similarity with the best synonym of each class."""
    unit = embeddings / embeddings.norm(dim=1, keepdim=True).clamp(min=1e-12)
    cosines = min(scale, 100.0) * unit @ words.rows.T
    result = torch.full((len(embeddings), words.count), -math.inf, dtype=torch.float64)
    for row, owner in enumerate(words.owners):
        result[:, owner] = torch.maximum(result[:, owner], cosines[:, row])
    return result
