# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""SAM's mask decoder for many prompts of one image: what is equal for all prompts is computed once."""

from __future__ import annotations

import math
from typing import Any

import torch
from segment_anything.modeling import MaskDecoder
from torch import Tensor, nn
from torch.nn import functional as F


class SharedMaskDecoder(nn.Module):
    """segment-anything's MaskDecoder, whose results it gives to rounding, in about half the time on a CPU.

    That one copies the image's embedding for each prompt first. Here prompts share the projections of the first
    attention to it; the softmax over the few tokens runs along the image, and upscaling is a product of matrices.

    Args:
        decoder: its parts are shared under the same names.
    """

    def __init__(self, decoder: MaskDecoder) -> None:
        super().__init__()
        self.num_mask_tokens = decoder.num_mask_tokens
        for name, part in decoder.named_children():
            self.add_module(name, part)

    def forward(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        multimask_output: bool,
        least_quality: float | None = None,
    ) -> tuple[Tensor, Tensor]:
        """
        Args:
            image_embeddings, image_pe: (1, C, h, w), of the image and its positions.
            sparse_prompt_embeddings: (N, P, C) of each prompt.
            dense_prompt_embeddings: (N, C, h, w) of each prompt; without mask prompts one that is expanded.
            multimask_output: three masks per prompt, or one.
            least_quality: prompts of which no mask is predicted to reach this IoU are left out, before their masks are
                made; None = none is.
        Returns:
            (N, 3 or 1, 4h, 4w) logits and (N, 3 or 1) predicted IoU.
        """
        own: Any = self
        height, width = image_embeddings.shape[-2:]
        tokens = torch.cat([own.iou_token.weight, own.mask_tokens.weight])
        tokens = tokens.expand(len(sparse_prompt_embeddings), -1, -1)
        tokens = torch.cat([tokens, sparse_prompt_embeddings], dim=1)
        dense = dense_prompt_embeddings
        dense = dense[:1] if dense.stride(0) == 0 else dense  # expanded: one for all
        image = (image_embeddings + dense).flatten(2).transpose(1, 2)
        positions = image_pe.flatten(2).transpose(1, 2)
        queries, image = _two_way(own.transformer, image, positions, tokens)
        wanted = range(1, self.num_mask_tokens) if multimask_output else range(1)
        quality = own.iou_prediction_head(queries[:, 0])[:, wanted.start : wanted.stop]
        if least_quality is not None:
            good = (quality >= least_quality).any(dim=1)
            queries, image, quality = queries[good], image[good], quality[good]
        kernels = torch.stack([own.output_hypernetworks_mlps[i](queries[:, 1 + i]) for i in wanted], dim=1)
        return _masks(own.output_upscaling, image, kernels, (height, width)), quality


def _two_way(
    transformer: Any, image_1LC: Tensor, positions_1LC: Tensor, tokens_NTC: Tensor
) -> tuple[Tensor, Tensor]:
    """Tokens and image after the layers, in which each attends to the other; (N, T, C) and (N, L, C)."""
    queries, image = tokens_NTC, image_1LC
    placed = image + positions_1LC
    for layer in transformer.layers:
        if layer.skip_first_layer_pe:
            queries = layer.self_attn(q=queries, k=queries, v=queries)
        else:
            asked = queries + tokens_NTC
            queries = queries + layer.self_attn(q=asked, k=asked, v=queries)
        queries = layer.norm1(queries)
        asked = queries + tokens_NTC
        queries = layer.norm2(queries + _to_image(layer.cross_attn_token_to_image, asked, placed, image))
        queries = layer.norm3(queries + layer.mlp(queries))
        asked = queries + tokens_NTC
        read = _to_tokens(layer.cross_attn_image_to_token, placed, asked, queries)
        image = layer.norm4(read.add_(image))  # in place: of many prompts it is the largest tensor of all
        placed = image + positions_1LC
    found = _to_image(transformer.final_attn_token_to_image, queries + tokens_NTC, placed, image)
    return transformer.norm_final_attn(queries + found), image


def _to_image(attention: Any, queries_NTC: Tensor, keys_BLC: Tensor, values_BLC: Tensor) -> Tensor:
    """What tokens read from the image; B = N, or 1 for one image that all share."""
    weights = _products(attention, attention.q_proj(queries_NTC), attention.k_proj(keys_BLC)).softmax(dim=-1)
    values = _heads(attention, attention.v_proj(values_BLC))
    if len(values) == 1:  # one product for all
        count, heads, tokens, _ = weights.shape
        folded = weights.transpose(0, 1).reshape(heads, count * tokens, -1) @ values[0]
        found = folded.view(heads, count, tokens, -1).permute(1, 2, 0, 3)
    else:
        found = (weights @ values).transpose(1, 2)
    result: Tensor = attention.out_proj(found.flatten(2))
    return result


def _to_tokens(attention: Any, queries_BLC: Tensor, keys_NTC: Tensor, values_NTC: Tensor) -> Tensor:
    """What each place of the image reads from the tokens."""
    products = _products(attention, attention.k_proj(keys_NTC), attention.q_proj(queries_BLC))
    weights = products.softmax(dim=-2)  # over the tokens; in this order a processor does many places at once
    found = weights.transpose(-2, -1) @ _heads(attention, attention.v_proj(values_NTC))
    result: Tensor = attention.out_proj(found.transpose(1, 2).flatten(2))
    return result


def _products(attention: Any, tokens_NTD: Tensor, image_BLD: Tensor) -> Tensor:
    """Scaled products (N, heads, T, L) of tokens and places of the image; B = N or 1."""
    tokens = _heads(attention, tokens_NTD / math.sqrt(tokens_NTD.shape[-1] // attention.num_heads))
    image = _heads(attention, image_BLD).transpose(-2, -1)
    if len(image) > 1:
        return tokens @ image
    count, heads, number, _ = tokens.shape
    folded = tokens.transpose(0, 1).reshape(heads, count * number, -1) @ image[0]
    return folded.view(heads, count, number, -1).transpose(0, 1)


def _heads(attention: Any, x_BTD: Tensor) -> Tensor:
    """(B, heads, T, D / heads)."""
    return x_BTD.view(*x_BTD.shape[:2], attention.num_heads, -1).transpose(1, 2)


def _masks(upscaling: Any, image_NLC: Tensor, kernels_NMc: Tensor, size: tuple[int, int]) -> Tensor:
    """Logits (N, M, 4h, 4w): each cell becomes 2 x 2 twice, and only the masks are put in the order of rows."""
    first, norm, activation, second, last = upscaling
    x = _quartered(first, image_NLC)
    x = activation(F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps))
    x = last(_quartered(second, x))  # (N, L, 4, 4, c)
    logits = x.flatten(1, 3) @ kernels_NMc.transpose(1, 2)
    (height, width), count = size, kernels_NMc.shape[1]
    grid = logits.view(len(x), height, width, 2, 2, 2, 2, count).permute(0, 7, 1, 3, 5, 2, 4, 6)
    masks: Tensor = grid.reshape(len(x), count, 4 * height, 4 * width)
    return masks


def _quartered(layer: nn.ConvTranspose2d, x: Tensor) -> Tensor:
    """A transposed convolution of 2 x 2 with stride 2 of cells (..., C): (..., 4, c), the four row by row."""
    channels, out = layer.weight.shape[:2]
    weight = layer.weight.permute(2, 3, 1, 0).reshape(4 * out, channels)
    bias = None if layer.bias is None else layer.bias.repeat(4)
    return F.linear(x, weight, bias).view(*x.shape[:-1], 4, out)
