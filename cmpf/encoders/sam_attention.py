# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Fused attention for SAM's image encoder."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmpf.encoders.linear import has_amx, replace_layers

# Elements of the additive mask that exist at one time, over all heads. One ViT-B block at 64 x 64 tokens, float32, one
# CPU core, seconds and additional MB (global attention | windows of 14):
#     segment-anything's own      2.48 s  2448 MB | 0.45 s  303 MB
#     one mask for all queries    1.25 s   924 MB | 0.34 s  203 MB
#     masks of 2 ** 22 elements   1.16 s   252 MB | 0.33 s  173 MB
#     no mask: the bias as 2 * 64 more features of queries and keys
#                                 1.98 s   361 MB | 0.33 s  264 MB (the CPU kernel needs values as wide as the keys)
# The small mask is still in the cache when it is read. A GPU needs more work per launch: 2 ** 28 elements are one
# image of ViT-H, 0.5 GB in bfloat16.
MAX_MASK_ELEMENTS = {"cpu": 1 << 22}
MAX_MASK_ELEMENTS_DEFAULT = 1 << 28  # on other devices
AMX_WIDTH = 32  # bfloat16 elements in a row of an AMX tile; queries and keys are padded to a multiple of it
# The CPU's fused kernel multiplies small blocks, and in bfloat16 is no faster than in float32. Separate matrix products
# with this many scores at one time, milliseconds on one core (12 heads; fused | separate, on a shared machine):
#     float32    64 x 64 tokens 1219 | 940    25 windows of 14 x 14 59 | 75
#     bfloat16   64 x 64 tokens 1337 | 641    25 windows of 14 x 14 83 | 65
MAX_SCORES = 1 << 21


def fuse_attention(image_encoder: nn.Module) -> None:
    """Replaces every segment-anything attention inside a module by a FusedAttention."""
    from segment_anything.modeling.image_encoder import Attention

    replace_layers(image_encoder, Attention, FusedAttention)


class FusedAttention(nn.Module):
    """segment-anything's image attention with decomposed relative positions (SAM's paper, from ViTDet), fused.

    The bias of query (y, x) and key (y', x') is q . Rh[y - y'] + q . Rw[x - x']. It is passed to
    `scaled_dot_product_attention` as an additive mask, for as many queries at a time as MAX_MASK_ELEMENTS allows.

    Args:
        attention: segment-anything's `Attention`; its layers and tables are shared under the same names.
    """

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.num_heads: int = attention.num_heads
        self.qkv = attention.qkv
        self.proj = attention.proj
        self.use_rel_pos: bool = attention.use_rel_pos
        if self.use_rel_pos:
            self.rel_pos_h = attention.rel_pos_h
            self.rel_pos_w = attention.rel_pos_w

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """Attention inside each image or window.

        Args:
            x_BHWC: tokens of any height and width; position tables of another size are resized linearly.
        Returns:
            The same shape.
        """
        batch, height, width, _ = x_BHWC.shape
        qkv = self.qkv(x_BHWC).view(batch, height * width, 3, self.num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, heads, H * W, d)
        if self.use_rel_pos:
            output = self._attend_with_positions(q, k, v, (height, width))
        else:
            output = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        projected: Tensor = self.proj(output.reshape(batch, height, width, -1))
        return projected

    def _attend_with_positions(self, q: Tensor, k: Tensor, v: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, H * W, heads, d); q, k, v are (B, heads, H * W, d)."""
        height, width = size
        batch, heads, tokens, depth = q.shape
        grid = q.reshape(batch, heads, height, width, depth)
        bias_h = torch.einsum(
            "bnhwc,hkc->bnhwk", grid, _relative_positions(self.rel_pos_h, height)
        ).contiguous()
        bias_w = torch.einsum(
            "bnhwc,wkc->bnhwk", grid, _relative_positions(self.rel_pos_w, width)
        ).contiguous()
        if q.device.type == "cpu" and not torch.compiler.is_compiling():  # exports have kernels of their own
            if q.dtype == torch.bfloat16 and has_amx():
                return _attend_with_position_features(q, k, v, bias_h, bias_w)
            if q.dtype == torch.bfloat16 or tokens**2 > MAX_SCORES:
                return _attend_with_matmuls(q, k, v, bias_h, bias_w)
        return _attend_with_masks(q, k, v, bias_h, bias_w)


def _attend_with_masks(q: Tensor, k: Tensor, v: Tensor, bias_h: Tensor, bias_w: Tensor) -> Tensor:
    """PyTorch's fused attention with the bias as an additive mask.

    Computes some images, or some rows of one image's queries, at a time.

    Args:
        q, k, v: (B, heads, H * W, d).
        bias_h: (B, heads, H, W, H), bias of each query and row of keys.
        bias_w: (B, heads, H, W, W), bias of each query and column of keys.
    Returns:
        (B, H * W, heads, d).
    """
    batch, heads, tokens, depth = q.shape
    height, width = bias_h.shape[2:4]
    max_elements = MAX_MASK_ELEMENTS.get(q.device.type, MAX_MASK_ELEMENTS_DEFAULT)
    num_images = max(1, max_elements // (heads * tokens * tokens))
    num_rows = min(height, max(1, max_elements // (heads * width * tokens)))
    output = q.new_empty(batch, tokens, heads, depth)
    for b in range(0, batch, num_images):
        images = slice(b, b + num_images)
        for y in range(0, height, num_rows):
            rows, queries = slice(y, y + num_rows), slice(y * width, (y + num_rows) * width)
            mask = bias_h[images, :, rows, :, :, None] + bias_w[images, :, rows, :, None, :]
            mask = mask.flatten(4).flatten(2, 3)  # (images, heads, rows * W, H * W)
            part = F.scaled_dot_product_attention(q[images, :, queries], k[images], v[images], attn_mask=mask)
            output[images, queries] = part.transpose(1, 2)
    return output


def _attend_with_position_features(q: Tensor, k: Tensor, v: Tensor, bias_h: Tensor, bias_w: Tensor) -> Tensor:
    """PyTorch's fused attention with the bias as H + W more features of queries and keys, without a mask.

    Queries are extended by their biases, and keys by the one-hot codes of their row and column, so that the product
    adds both biases. AMX makes the additional products almost free. Arguments and result: see `_attend_with_masks`.
    """
    batch, heads, _, depth = q.shape
    height, width = bias_h.shape[2:4]
    row_codes = torch.eye(height, dtype=q.dtype, device=q.device).repeat_interleave(width, dim=0)
    column_codes = torch.eye(width, dtype=q.dtype, device=q.device).repeat(height, 1)
    codes = torch.cat([row_codes, column_codes], dim=1).expand(
        batch, heads, -1, -1
    )  # (B, heads, H * W, H + W)
    queries = torch.cat([q * depth**-0.5, bias_h.flatten(2, 3), bias_w.flatten(2, 3)], dim=-1)
    keys = torch.cat([k, codes], dim=-1)
    padding = -keys.shape[-1] % AMX_WIDTH
    queries, keys = F.pad(queries, (0, padding)), F.pad(keys, (0, padding))
    values = F.pad(v, (0, keys.shape[-1] - depth))  # the kernel needs values as wide as the keys
    output = F.scaled_dot_product_attention(queries, keys, values, scale=1.0)
    return output[..., :depth].transpose(1, 2)


def _attend_with_matmuls(q: Tensor, k: Tensor, v: Tensor, bias_h: Tensor, bias_w: Tensor) -> Tensor:
    """Attention by batched matrix products and a softmax.

    Computes some heads, or some rows of one head's queries, at a time. Arguments and result: see `_attend_with_masks`.
    """
    batch, heads, tokens, depth = q.shape
    height, width = bias_h.shape[2:4]
    num_heads, num_rows = max(1, MAX_SCORES // tokens**2), max(1, MAX_SCORES // (width * tokens))
    q, k, v, bias_h, bias_w = (x.flatten(0, 1) for x in (q * depth**-0.5, k, v, bias_h, bias_w))
    output = torch.empty_like(q)
    for first in range(0, batch * heads, num_heads):
        group = slice(first, first + num_heads)
        for y in range(0, height, num_rows):
            rows, queries = slice(y, y + num_rows), slice(y * width, (y + num_rows) * width)
            bias = bias_h[group, rows, :, :, None] + bias_w[group, rows, :, None, :]
            scores = bias.flatten(3).flatten(1, 2).baddbmm_(q[group, queries], k[group].transpose(1, 2))
            output[group, queries] = torch.bmm(scores.softmax(dim=-1), v[group])
    return output.view(batch, heads, tokens, depth).transpose(1, 2)


def _relative_positions(table_LC: Tensor, size: int) -> Tensor:
    """(size, size, C) embeddings of the distance q - k along one axis, for query q and key k.

    Not cached: for 64 x 64 it takes 0.12 ms on one core, against 1.2 s of the attention, and a cached copy could
    outlive a change of the weights.
    """
    length = 2 * size - 1
    if len(table_LC) != length:
        resized = F.interpolate(table_LC.T[None], size=length, mode="linear")
        table_LC = resized[0].T
    return table_LC[_distance_index(size, table_LC.device)]


@lru_cache(maxsize=64)
def _distance_index(size: int, device: torch.device) -> Tensor:
    """(size, size) int64: index q - k + size - 1 into the table, for query q and key k."""
    # Created in inference mode, the cached tensor could not be used in training later.
    with torch.inference_mode(False):
        steps = torch.arange(size, device=device)
        return steps[:, None] - steps + size - 1
