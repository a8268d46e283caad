# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""TinyViT's blocks written out, on modules that have the published names."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def conv_bn(module: Any, x: Tensor) -> Tensor:
    """A convolution without bias, then BatchNorm by its running statistics."""
    x = F.conv2d(x, module.c.weight, None, module.c.stride, module.c.padding, 1, module.c.groups)
    mean, deviation = module.bn.running_mean, (module.bn.running_var + 1e-5).sqrt()
    scaled = (x - mean[:, None, None]) / deviation[:, None, None]
    return scaled * module.bn.weight[:, None, None] + module.bn.bias[:, None, None]


def layer_norm(module: Any, x: Tensor) -> Tensor:
    centered = x - x.mean(-1, keepdim=True)
    return centered / (centered.square().mean(-1, keepdim=True) + 1e-5).sqrt() * module.weight + module.bias


def window_attention(module: Any, x_hwc: Tensor, window: int, heads: int) -> Tensor:
    """Attention inside windows that start at the top left, query by query; cells beyond the edge are zeros."""
    height, width, channels = x_hwc.shape
    offsets: dict[tuple[int, int], int] = {}  # |dy|, |dx| -> column of the biases, in the order of appearance
    for dy in range(window):
        for dx in range(window):
            offsets[dy, dx] = len(offsets)
    result, depth = torch.zeros_like(x_hwc), channels // heads
    for top in range(0, height, window):
        for left in range(0, width, window):
            cells = [(top + y, left + x) for y in range(window) for x in range(window)]
            rows = [x_hwc[y, x] if y < height and x < width else torch.zeros(channels) for y, x in cells]
            qkv = F.linear(layer_norm(module.norm, torch.stack(rows)), module.qkv.weight, module.qkv.bias)
            # Each head's query, key and value stand together.
            q, k, v = qkv.view(len(cells), heads, 3, depth).unbind(2)
            for i, (y, x) in enumerate(cells):
                if y >= height or x >= width:
                    continue
                mixed = []
                for head in range(heads):
                    bias = torch.stack(
                        [module.attention_biases[head, offsets[abs(y - v_), abs(x - u)]] for v_, u in cells]
                    )
                    scores = (k[:, head] @ q[i, head]) / depth**0.5 + bias
                    mixed.append(scores.softmax(0) @ v[:, head])
                result[y, x] = F.linear(torch.cat(mixed), module.proj.weight, module.proj.bias)
    return result


def naive_block(block: Any, x_chw: Tensor, window: int, heads: int) -> Tensor:
    """A TinyViT block: window attention, depthwise convolution, MLP."""
    x = x_chw + window_attention(block.attn, x_chw.permute(1, 2, 0), window, heads).permute(2, 0, 1)
    x = conv_bn(block.local_conv, x[None])[0].permute(1, 2, 0)
    inner = F.linear(layer_norm(block.mlp.norm, x), block.mlp.fc1.weight, block.mlp.fc1.bias)
    return (x + F.linear(F.gelu(inner), block.mlp.fc2.weight, block.mlp.fc2.bias)).permute(2, 0, 1)


def naive_inverted_residual(block: Any, x: Tensor) -> Tensor:
    inner = F.gelu(conv_bn(block.conv2, F.gelu(conv_bn(block.conv1, x))))
    return F.gelu(x + conv_bn(block.conv3, inner))


def naive_merging(part: Any, x: Tensor) -> Tensor:
    return conv_bn(part.conv3, F.gelu(conv_bn(part.conv2, F.gelu(conv_bn(part.conv1, x)))))
