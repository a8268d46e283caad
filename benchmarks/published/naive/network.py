# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The published network for one image in float64, with weights under published names and without code of cmpf.

Takes the frozen feature maps, returns mask logits and class logits of every head. The attention of the SAM branch
reproduces the flat memory addressing of the published kernel.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from benchmarks.published.naive.layers import (
    Sizes,
    Weights,
    Words,
    attend,
    centers,
    convolve,
    group_norm,
    layer_norm,
    linear,
    mlp,
    pool,
    pool_projection,
    read,
    resize,
    similarity,
    sine_positions,
)

LEVELS = 3


def multi_scale_attention(
    query: Tensor, value: Tensor, shapes: list[tuple[int, int]], w: Weights, sizes: Sizes
) -> Tensor:
    """Deformable attention over all levels (Deformable DETR); query and value have shape (S, D)."""
    heads, points = sizes.encoder_heads, sizes.points
    values = linear(value, w.under("value_proj."))
    offsets = linear(query, w.under("sampling_offsets.")).view(len(query), heads, LEVELS, points, 2)
    scores = linear(query, w.under("attention_weights.")).view(len(query), heads, LEVELS * points)
    weights = scores.softmax(dim=-1).view(len(query), heads, LEVELS, points)
    references = torch.cat([centers(*shape) for shape in shapes])
    width = values.shape[1] // heads
    outputs = []
    for head in range(heads):
        total, start = torch.zeros(len(query), width, dtype=torch.float64), 0
        for level, (h, w_) in enumerate(shapes):
            channels = values[start : start + h * w_, head * width : (head + 1) * width]
            size = torch.tensor([w_, h], dtype=torch.float64)
            for point in range(points):
                places = references + offsets[:, head, level, point] / size
                sampled = read(channels.view(h, w_, width), places)
                total += weights[:, head, level, point, None] * sampled
            start += h * w_
        outputs.append(total)
    return linear(torch.cat(outputs, dim=1), w.under("output_proj."))


def flat_attention(query: Tensor, value: Tensor, shape: tuple[int, int], w: Weights, sizes: Sizes) -> Tensor:
    """Attention of the SAM branch: tensors for 3 levels, read by a kernel that was called for a single one."""
    heads, points, (h, w_) = sizes.encoder_heads, sizes.points, shape
    values = linear(value, w.under("value_proj."))
    offsets = linear(query, w.under("sampling_offsets.")).view(len(query), heads, LEVELS, points, 2)
    scores = linear(query, w.under("attention_weights.")).view(len(query), heads, LEVELS * points)
    size = torch.tensor([w_, h], dtype=torch.float64)
    memory_places = (centers(h, w_)[:, None, None, None] + offsets / size).reshape(-1, 2)
    memory_weights = scores.softmax(dim=-1).flatten()
    # Addresses that the kernel's threads read: thread s computes position s // heads and head s % heads.
    addresses = torch.zeros(len(query), heads, points, dtype=torch.long)
    for s in range(len(query) * heads):
        for point in range(points):
            addresses[s // heads, s % heads, point] = points * s + point
    width = values.shape[1] // heads
    outputs = []
    for head in range(heads):
        channels = values[:, head * width : (head + 1) * width].view(h, w_, width)
        total = torch.zeros(len(query), width, dtype=torch.float64)
        for point in range(points):
            address = addresses[:, head, point]
            total += memory_weights[address, None] * read(channels, memory_places[address])
        outputs.append(total)
    return linear(torch.cat(outputs, dim=1), w.under("output_proj."))


def encoder(maps: list[Tensor], w: Weights, sizes: Sizes, *, flat: bool) -> list[Tensor]:
    """Deformable encoder with post-norm layers, on maps (D, h, w)."""
    shapes = [(m.shape[1], m.shape[2]) for m in maps]
    x = torch.cat([m.flatten(1).T for m in maps])
    embedding = w("level_embed")
    positions = torch.cat(
        [sine_positions(h, v, x.shape[1]) + embedding[level] for level, (h, v) in enumerate(shapes)]
    )
    for index in range(w.count("encoder.layers.#.norm1.weight")):
        layer = w.under(f"encoder.layers.{index}.")
        attention = layer.under("self_attn.")
        if flat:
            attended = flat_attention(x + positions, x, shapes[0], attention, sizes)
        else:
            attended = multi_scale_attention(x + positions, x, shapes, attention, sizes)
        x = layer_norm(x + attended, layer.under("norm1."))
        hidden = linear(x, layer.under("linear1.")).relu()
        x = layer_norm(x + linear(hidden, layer.under("linear2.")), layer.under("norm2."))
    parts = x.split([h * v for h, v in shapes])
    return [part.T.reshape(-1, *shape) for part, shape in zip(parts, shapes, strict=True)]


def pixel_decoder(levels: dict[str, Tensor], w: Weights, sizes: Sizes) -> tuple[Tensor, list[Tensor]]:
    """Mask features (C, H/4, W/4) and the maps at strides 32, 16, 8."""
    projected = []
    for index, name in enumerate(("res5", "res4", "res3")):
        x = convolve(levels[name].double(), w.under(f"input_proj.{index}.0."))
        projected.append(group_norm(x, w.under(f"input_proj.{index}.1."), sizes.groups))
    maps = encoder(projected, w.under("transformer."), sizes, flat=False)
    lateral = convolve(levels["res2"].double(), w.under("adapter_1."), bias=False)
    lateral = group_norm(lateral, w.under("adapter_1.norm."), sizes.groups)
    fused = lateral + resize(maps[-1], (lateral.shape[1], lateral.shape[2]))
    fused = group_norm(
        convolve(fused, w.under("layer_1."), bias=False), w.under("layer_1.norm."), sizes.groups
    )
    return convolve(fused.relu(), w.under("mask_features.")), maps


def sam_branch(embedding: Tensor, w: Weights, sizes: Sizes) -> Tensor:
    x = group_norm(
        convolve(embedding.double(), w.under("fpn3.0."), stride=2), w.under("fpn3.1."), sizes.groups
    )
    return encoder([x.relu()], w.under("sam_transformer."), sizes, flat=True)[0]


def head(
    queries: Tensor, mask_features: Tensor, words: Words, w: Weights
) -> tuple[Tensor, Tensor]:  # class logits (Q, K + 1), mask logits (Q, h, w)
    normal = layer_norm(queries, w.under("decoder_norm."))
    masks = torch.einsum("qc,chw->qhw", mlp(normal, w.under("mask_embed.")), mask_features)
    pooled = torch.stack([pool(mask_features, mask) for mask in masks])
    embedding = mlp(normal + pool_projection(pooled, w), w.under("class_embed."))
    return similarity(embedding, words, math.exp(w("logit_scale").item())), masks


def blocked_cells(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """(Q, h * w) attention mask of cells that a query ignores; a query that would ignore all cells ignores none."""
    blocked = resize(masks, size).sigmoid().flatten(1) < 0.5
    for row in blocked:
        if row.all():
            row[:] = False
    return blocked


def network(
    levels: dict[str, Tensor],
    sam_embedding: Tensor | None,
    words: Words,
    state: dict[str, Tensor],
    sizes: Sizes,
) -> list[tuple[Tensor, Tensor]]:
    """Class and mask logits of all heads for one image; void is the last class of `words`."""
    pixel, w = (Weights(state, f"sem_seg_head.{part}.") for part in ("pixel_decoder", "predictor"))
    mask_features, maps = pixel_decoder(levels, pixel, sizes)
    shapes = [(m.shape[1], m.shape[2]) for m in maps]
    embedding = w("level_embed.weight")
    tokens = [m.flatten(1).T + embedding[index] for index, m in enumerate(maps)]
    positions = [sine_positions(h, v, tokens[0].shape[1]) for h, v in shapes]
    sam_tokens = None
    if sam_embedding is not None:
        sam_map = resize(sam_branch(sam_embedding, pixel, sizes), shapes[0])
        sam_tokens = sam_map.flatten(1).T + embedding[0]
    queries, query_positions = w("query_feat.weight"), w("query_embed.weight")
    heads = [head(queries, mask_features, words, w)]
    for index in range(w.count("transformer_ffn_layers.#.norm.weight")):
        level = index % LEVELS
        key, value = tokens[level] + positions[level], tokens[level]
        if level == 0 and sam_tokens is not None:
            injector = w.under(f"transformer_cross_attention_layers_sam.{index}.")
            sam_keys = sam_tokens + positions[0]
            read_out = attend(
                key, sam_keys, sam_tokens, injector.under("multihead_attn."), sizes.decoder_heads
            )
            key = value = layer_norm(value + read_out, injector.under("norm."))
        queries = decoder_layer(
            queries, query_positions, key, value, heads[-1][1], shapes[level], index, w, sizes
        )
        heads.append(head(queries, mask_features, words, w))
        if level == 2 and sam_embedding is not None:
            pooled = torch.stack([pool(sam_embedding.double(), mask) for mask in heads[-1][1]])
            queries = queries + pool_projection(pooled, w)
    return heads


def decoder_layer(
    x: Tensor,
    positions: Tensor,
    key: Tensor,
    value: Tensor,
    masks: Tensor,
    shape: tuple[int, int],
    index: int,
    w: Weights,
    sizes: Sizes,
) -> Tensor:
    cross = w.under(f"transformer_cross_attention_layers.{index}.")
    own = w.under(f"transformer_self_attention_layers.{index}.")
    feed = w.under(f"transformer_ffn_layers.{index}.")
    blocked = blocked_cells(masks, shape)
    read_out = attend(x + positions, key, value, cross.under("multihead_attn."), sizes.decoder_heads, blocked)
    x = layer_norm(x + read_out, cross.under("norm."))
    read_out = attend(x + positions, x + positions, x, own.under("self_attn."), sizes.decoder_heads)
    x = layer_norm(x + read_out, own.under("norm."))
    hidden = linear(x, feed.under("linear1.")).relu()
    return layer_norm(x + linear(hidden, feed.under("linear2.")), feed.under("norm."))
