# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""SAM's image attention, fused."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmpf.encoders.linear import has_amx, replace_layers

# Numbers of the additive mask that exist at one time, in all heads. One ViT-B block at 64 x 64 tokens, float32, one
# CPU core, seconds and extra MB (global attention | windows of 14):
#     segment-anything's own      2.48 s  2448 MB | 0.45 s  303 MB
#     one mask for all queries    1.25 s   924 MB | 0.34 s  203 MB
#     masks of 2 ** 22 numbers    1.16 s   252 MB | 0.33 s  173 MB
#     no mask: the bias as 2 * 64 more features of queries and keys
#                                 1.98 s   361 MB | 0.33 s  264 MB (the CPU kernel wants the values as wide as the keys)
# The small mask is still in the cache when it is read. A GPU wants more work a launch: 2 ** 28 numbers are one image
# of ViT-H, 0.5 GB in bfloat16.
MASK_NUMBERS = {"cpu": 1 << 22}
MASK_NUMBERS_ELSEWHERE = 1 << 28
FEATURES = 32  # of queries and keys: a multiple of it fills the rows of AMX's matrices
# The CPU's fused kernel multiplies small blocks, and in bfloat16 is no faster than in float32. Plain products of this
# many scores at one time, milliseconds of one core (12 heads; fused | plain, as measured beside other work):
#     float32    64 x 64 tokens 1219 | 940    25 windows of 14 x 14 59 | 75
#     bfloat16   64 x 64 tokens 1337 | 641    25 windows of 14 x 14 83 | 65
SCORES = 1 << 21


class FusedAttention(nn.Module):
    """segment-anything's image attention with decomposed relative positions (paper of SAM: ViTDet's), fused.

    The bias of query (y, x) and key (y', x') is q . Rh[y - y'] + q . Rw[x - x']. It goes as an additive mask to
    `scaled_dot_product_attention`, for as many queries at a time as MASK_NUMBERS allows.

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
            x_BHWC: tokens of any height and width; tables of another size are resized linearly.
        Returns:
            The same shape.
        """
        batch, height, width, _ = x_BHWC.shape
        qkv = self.qkv(x_BHWC).view(batch, height * width, 3, self.num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, heads, H * W, d)
        if self.use_rel_pos:
            mixed = self._attend_with_positions(q, k, v, (height, width))
        else:
            mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        projected: Tensor = self.proj(mixed.reshape(batch, height, width, -1))
        return projected

    def _attend_with_positions(self, q: Tensor, k: Tensor, v: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, H * W, heads, d), some images or some rows of one image's queries at a time."""
        height, width = size
        batch, heads, tokens, depth = q.shape
        grid = q.reshape(batch, heads, height, width, depth)
        bias_h = torch.einsum("bnhwc,hkc->bnhwk", grid, _gathered(self.rel_pos_h, height)).contiguous()
        bias_w = torch.einsum("bnhwc,wkc->bnhwk", grid, _gathered(self.rel_pos_w, width)).contiguous()
        if q.device.type == "cpu" and not torch.compiler.is_compiling():  # exports have kernels of their own
            if q.dtype == torch.bfloat16 and has_amx():
                return _attend_with_longer_queries(q, k, v, bias_h, bias_w)
            if q.dtype == torch.bfloat16 or tokens**2 > SCORES:
                return _attend_by_products(q, k, v, bias_h, bias_w)
        numbers = MASK_NUMBERS.get(q.device.type, MASK_NUMBERS_ELSEWHERE)
        images = max(1, numbers // (heads * tokens * tokens))
        rows = min(height, max(1, numbers // (heads * width * tokens)))
        mixed = q.new_empty(batch, tokens, heads, depth)
        for b in range(0, batch, images):
            some = slice(b, b + images)
            for y in range(0, height, rows):
                queries = slice(y * width, (y + rows) * width)
                mask = bias_h[some, :, y : y + rows, :, :, None] + bias_w[some, :, y : y + rows, :, None, :]
                mask = mask.flatten(4).flatten(2, 3)  # (b, heads, rows * W, H * W)
                part = F.scaled_dot_product_attention(q[some, :, queries], k[some], v[some], attn_mask=mask)
                mixed[some, queries] = part.transpose(1, 2)
        return mixed


def _attend_with_longer_queries(q: Tensor, k: Tensor, v: Tensor, bias_h: Tensor, bias_w: Tensor) -> Tensor:
    """(B, H * W, heads, d); arguments as `_attend_by_products` has them.

    A query's bias in row y' and column x' is its product with the y'-th and the x'-th unit vector: H + W more features.
    Instructions for products of matrices make these for almost nothing, and no bias ever lies in memory.
    """
    batch, heads, _, depth = q.shape
    height, width = bias_h.shape[2:4]
    rows = torch.eye(height, dtype=q.dtype, device=q.device).repeat_interleave(width, dim=0)
    columns = torch.eye(width, dtype=q.dtype, device=q.device).repeat(height, 1)
    places = torch.cat([rows, columns], dim=1).expand(batch, heads, -1, -1)  # (B, heads, H * W, H + W)
    queries = torch.cat([q * depth**-0.5, bias_h.flatten(2, 3), bias_w.flatten(2, 3)], dim=-1)
    keys = torch.cat([k, places], dim=-1)
    more = -keys.shape[-1] % FEATURES
    queries, keys = F.pad(queries, (0, more)), F.pad(keys, (0, more))
    values = F.pad(v, (0, keys.shape[-1] - depth))  # the kernel wants them as wide as the keys
    mixed = F.scaled_dot_product_attention(queries, keys, values, scale=1.0)
    return mixed[..., :depth].transpose(1, 2)


def _attend_by_products(q: Tensor, k: Tensor, v: Tensor, bias_h: Tensor, bias_w: Tensor) -> Tensor:
    """(B, H * W, heads, d), some heads or some rows of one head's queries at a time.

    Args:
        q, k, v: (B, heads, H * W, d). bias_h, bias_w: (B, heads, H, W, H) and (B, heads, H, W, W).
    """
    batch, heads, tokens, depth = q.shape
    height, width = bias_h.shape[2:4]
    at_once, rows = max(1, SCORES // tokens**2), max(1, SCORES // (width * tokens))
    q, k, v, bias_h, bias_w = (x.flatten(0, 1) for x in (q * depth**-0.5, k, v, bias_h, bias_w))
    mixed = torch.empty_like(q)
    for first in range(0, batch * heads, at_once):
        some = slice(first, first + at_once)
        for y in range(0, height, rows):
            those = slice(y * width, (y + rows) * width)
            bias = bias_h[some, y : y + rows, :, :, None] + bias_w[some, y : y + rows, :, None, :]
            scores = bias.flatten(3).flatten(1, 2).baddbmm_(q[some, those], k[some].transpose(1, 2))
            mixed[some, those] = torch.bmm(scores.softmax(dim=-1), v[some])
    return mixed.view(batch, heads, tokens, depth).transpose(1, 2)


def fuse_attention(image_encoder: nn.Module) -> None:
    """Replaces every segment-anything attention inside by a FusedAttention."""
    from segment_anything.modeling.image_encoder import Attention

    replace_layers(image_encoder, Attention, FusedAttention)


def _gathered(table_LC: Tensor, size: int) -> Tensor:
    """(size, size, C): row q, column k is the embedding of the distance q - k along one axis.

    Gathered anew in each call: 0.12 ms for 64 x 64 on one core, against 1.2 s of the attention, and no copy that
    could outlive a change of the weights.
    """
    length = 2 * size - 1
    if len(table_LC) != length:
        resized = F.interpolate(table_LC.T[None], size=length, mode="linear")
        table_LC = resized[0].T
    return table_LC[_distances(size, table_LC.device)]


@lru_cache(maxsize=64)
def _distances(size: int, device: torch.device) -> Tensor:
    """(size, size) int64: q - k, counted from the most negative one."""
    # Made inside a prediction it would be an inference tensor, with which nothing could be trained later.
    with torch.inference_mode(False):
        steps = torch.arange(size, device=device)
        return steps[:, None] - steps + size - 1
