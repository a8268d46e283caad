# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""SAM's mask decoder for many prompts of one image, with computations that all prompts share done once."""

from __future__ import annotations

import math
from typing import Any

import torch
from segment_anything.modeling import MaskDecoder
from torch import Tensor, nn
from torch.nn import functional as F

from cmpf.encoders.linear import replace_layers


def share_prompts(sam: nn.Module) -> None:
    """Replaces segment-anything's mask decoder inside a module by a SharedMaskDecoder."""
    replace_layers(sam, MaskDecoder, SharedMaskDecoder)


class SharedMaskDecoder(nn.Module):
    """segment-anything's MaskDecoder with the same results up to rounding, in about half the time on a CPU.

    The original copies the image embedding for each prompt. Here the prompts share the projections of the first
    attention to the image, the softmax over the few tokens is vectorized over the image, and upscaling is a matrix
    product.

    Args:
        decoder: the original; its submodules are shared under the same names.
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
        min_iou: float | None = None,
    ) -> tuple[Tensor, Tensor]:
        """
        Args:
            image_embeddings, image_pe: (1, C, h, w) embedding and positions of the image.
            sparse_prompt_embeddings: (N, P, C) for N prompts.
            dense_prompt_embeddings: (N, C, h, w); without mask prompts one embedding expanded to N.
            multimask_output: three masks per prompt, or one.
            min_iou: prompts none of whose masks has at least this predicted IoU are dropped before their masks are
                computed; None = off.
        Returns:
            (N, 3 or 1, 4h, 4w) logits and (N, 3 or 1) predicted IoU.
        """
        modules: Any = self
        height, width = image_embeddings.shape[-2:]
        tokens = torch.cat([modules.iou_token.weight, modules.mask_tokens.weight])
        tokens = tokens.expand(len(sparse_prompt_embeddings), -1, -1)
        tokens = torch.cat([tokens, sparse_prompt_embeddings], dim=1)
        dense = dense_prompt_embeddings
        dense = dense[:1] if dense.stride(0) == 0 else dense  # the same for all prompts
        image = (image_embeddings + dense).flatten(2).transpose(1, 2)
        positions = image_pe.flatten(2).transpose(1, 2)
        queries, image = _two_way_transformer(modules.transformer, image, positions, tokens)
        indices = range(1, self.num_mask_tokens) if multimask_output else range(1)
        iou = modules.iou_prediction_head(queries[:, 0])[:, indices.start : indices.stop]
        if min_iou is not None:
            keep = (iou >= min_iou).any(dim=1)
            queries, image, iou = queries[keep], image[keep], iou[keep]
        mlps = modules.output_hypernetworks_mlps
        kernels = torch.stack([mlps[i](queries[:, 1 + i]) for i in indices], dim=1)
        return _mask_logits(modules.output_upscaling, image, kernels, (height, width)), iou


def _two_way_transformer(
    transformer: Any, image_1LC: Tensor, positions_1LC: Tensor, tokens_NTC: Tensor
) -> tuple[Tensor, Tensor]:
    """Tokens (N, T, C) and image (N, L, C) after the layers, in which they attend to each other."""
    queries, image = tokens_NTC, image_1LC
    image_keys = image + positions_1LC
    for layer in transformer.layers:
        if layer.skip_first_layer_pe:
            queries = layer.self_attn(q=queries, k=queries, v=queries)
        else:
            q = queries + tokens_NTC
            queries = queries + layer.self_attn(q=q, k=q, v=queries)
        queries = layer.norm1(queries)
        q = queries + tokens_NTC
        attended = _attend_to_image(layer.cross_attn_token_to_image, q, image_keys, image)
        queries = layer.norm2(queries + attended)
        queries = layer.norm3(queries + layer.mlp(queries))
        q = queries + tokens_NTC
        attended = _attend_to_tokens(layer.cross_attn_image_to_token, image_keys, q, queries)
        image = layer.norm4(attended.add_(image))  # in place, because it is the largest tensor
        image_keys = image + positions_1LC
    attended = _attend_to_image(
        transformer.final_attn_token_to_image, queries + tokens_NTC, image_keys, image
    )
    return transformer.norm_final_attn(queries + attended), image


def _attend_to_image(attention: Any, queries_NTC: Tensor, keys_BLC: Tensor, values_BLC: Tensor) -> Tensor:
    """Attention from tokens to the image; B = N, or 1 if all prompts share the image."""
    scores = _attention_scores(attention, attention.q_proj(queries_NTC), attention.k_proj(keys_BLC))
    weights = scores.softmax(dim=-1)
    values = _split_heads(attention, attention.v_proj(values_BLC))
    if len(values) == 1:  # one matrix product for all prompts
        count, heads, tokens, _ = weights.shape
        folded = weights.transpose(0, 1).reshape(heads, count * tokens, -1) @ values[0]
        attended = folded.view(heads, count, tokens, -1).permute(1, 2, 0, 3)
    else:
        attended = (weights @ values).transpose(1, 2)
    result: Tensor = attention.out_proj(attended.flatten(2))
    return result


def _attend_to_tokens(attention: Any, queries_BLC: Tensor, keys_NTC: Tensor, values_NTC: Tensor) -> Tensor:
    """Attention from the image to the tokens; B = N, or 1 if all prompts share the image."""
    scores = _attention_scores(attention, attention.k_proj(keys_NTC), attention.q_proj(queries_BLC))
    weights = scores.softmax(dim=-2)  # over the tokens, vectorized over the image
    attended = weights.transpose(-2, -1) @ _split_heads(attention, attention.v_proj(values_NTC))
    result: Tensor = attention.out_proj(attended.transpose(1, 2).flatten(2))
    return result


def _attention_scores(attention: Any, tokens_NTD: Tensor, image_BLD: Tensor) -> Tensor:
    """Scaled dot products (N, heads, T, L) of tokens and image; B = N or 1."""
    tokens = _split_heads(attention, tokens_NTD / math.sqrt(tokens_NTD.shape[-1] // attention.num_heads))
    image = _split_heads(attention, image_BLD).transpose(-2, -1)
    if len(image) > 1:
        return tokens @ image
    count, heads, num_tokens, _ = tokens.shape
    folded = tokens.transpose(0, 1).reshape(heads, count * num_tokens, -1) @ image[0]
    return folded.view(heads, count, num_tokens, -1).transpose(0, 1)


def _split_heads(attention: Any, x_BTD: Tensor) -> Tensor:
    """(B, T, D) -> (B, heads, T, D / heads)."""
    return x_BTD.view(*x_BTD.shape[:2], attention.num_heads, -1).transpose(1, 2)


def _mask_logits(upscaling: Any, image_NLC: Tensor, kernels_NMc: Tensor, size: tuple[int, int]) -> Tensor:
    """Logits (N, M, 4h, 4w): upsamples the image embedding twice by 2 and reorders only the masks to rows."""
    first, norm, activation, second, last = upscaling
    x = _upsample(first, image_NLC)
    x = activation(F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps))
    x = last(_upsample(second, x))  # (N, L, 4, 4, c)
    logits = x.flatten(1, 3) @ kernels_NMc.transpose(1, 2)
    (height, width), count = size, kernels_NMc.shape[1]
    grid = logits.view(len(x), height, width, 2, 2, 2, 2, count).permute(0, 7, 1, 3, 5, 2, 4, 6)
    masks: Tensor = grid.reshape(len(x), count, 4 * height, 4 * width)
    return masks


def _upsample(layer: nn.ConvTranspose2d, x: Tensor) -> Tensor:
    """A 2 x 2 transposed convolution of stride 2 as a linear layer: (..., C) -> (..., 4, c), row by row."""
    channels, out = layer.weight.shape[:2]
    weight = layer.weight.permute(2, 3, 1, 0).reshape(4 * out, channels)
    bias = None if layer.bias is None else layer.bias.repeat(4)
    return F.linear(x, weight, bias).view(*x.shape[:-1], 4, out)
