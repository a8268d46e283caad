# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The network as published: attention, prediction heads, decoder, text encoding, and PyTorch's linear layers."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmpf.encoders.linear import InferenceLinear
from cmpf.encoders.sam_attention import FusedAttention
from cmpf.modeling.deformable.module import MultiScaleDeformableAttention
from cmpf.modeling.heads import PredictionHead
from cmpf.modeling.transformer_decoder import TransformerDecoder
from cmpf.types import ClassEmbeddings, DecoderOutput, HeadOutput

M = TypeVar("M", bound=nn.Module)
LEVELS = 3
BATCH = 128  # prompts in one pass of the text tower


class UnfusedAttention(nn.Module):
    """Attention of SAM's image encoder (arXiv 2304.02643; relative positions of arXiv 2112.01526)."""

    def __init__(self, fused: FusedAttention) -> None:
        super().__init__()
        self.weights = fused

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """Computes the full (H * W) x (H * W) attention matrix of every head."""
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
            biased = scores.view(-1, H, W, H, W)  # in place, to save memory
            scores = biased.add_(vertical[..., :, None]).add_(horizontal[..., None, :]).view(-1, H * W, H * W)
        mixed = scores.softmax(dim=-1) @ v
        mixed = mixed.view(B, heads, H * W, -1).transpose(1, 2).reshape(B, H, W, -1)
        result: Tensor = own.proj(mixed)
        return result


def grid_sample_attention(
    value_BSMD: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """The same as cmpf's `deformable_attention` (arXiv 2010.04159, the definition without the CUDA kernel).

    Samples all points of a level at once, then weights and sums all of them.
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
    """A copy of a module with SAM's and deformable attention as in this file; `shared` parts are not copied."""
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
    """(size, size, C): the table's relative position embedding for each pair of positions."""
    length = 2 * size - 1
    if len(table) != length:
        table = F.interpolate(table.T[None], size=length, mode="linear")[0].T
    steps = torch.arange(size, device=table.device)
    result: Tensor = table[steps[:, None] - steps + size - 1]
    return result


def class_logits(x_BQE: Tensor, embeddings: ClassEmbeddings, scale: Tensor | float) -> Tensor:
    """(B, Q, K): for each class the logit of its best synonym."""
    logits = scale * (F.normalize(x_BQE, dim=-1) @ F.normalize(embeddings.matrix, dim=-1).T)
    columns, first = [], 0
    for count in embeddings.class_of_row.bincount(minlength=embeddings.num_classes).tolist():
        columns.append(logits[..., first : first + count].max(dim=-1).values)
        first += count
    return torch.stack(columns, dim=-1)


def mask_pooling(features_BChw: Tensor, masks_BQHW: Tensor) -> Tensor:
    """(B, Q, C): mean inside each mask."""
    if features_BChw.shape[-2:] != masks_BQHW.shape[-2:]:
        masks_BQHW = _resize(masks_BQHW, features_BChw.shape[-2:])
    inside = (masks_BQHW.detach() > 0).to(features_BChw.dtype)
    inside = inside / (inside.sum(dim=(-2, -1), keepdim=True) + 1e-8)
    return torch.einsum("bchw,bqhw->bqc", features_BChw, inside)


def predict(
    head: PredictionHead,
    queries: Tensor,
    mask_features: Tensor,
    classes: ClassEmbeddings,
    size: Sequence[int],
) -> tuple[HeadOutput, Tensor]:
    """One head: class logits and mask logits at stride 4, and attention mask logits (B, Q, h, w) of the next layer."""
    normalized = head.norm(queries)
    masks = torch.einsum("bqc,bchw->bqhw", head.mask_mlp(normalized), mask_features)
    pooled = head.pool_projection(mask_pooling(mask_features, masks))
    logits = class_logits(head.class_mlp(normalized + pooled), classes, head.logit_scale.exp().clamp(max=100))
    with torch.no_grad():
        attend = _resize(masks, size)
    return {"pred_logits": logits, "pred_masks": masks}, attend


def decode(
    decoder: TransformerDecoder,
    multi_scale: Sequence[Tensor],
    mask_features: Tensor,
    classes: ClassEmbeddings,
    *,
    sam_embedding: Tensor | None,
    sam_features: Tensor | None,
) -> DecoderOutput:
    """The same as TransformerDecoder.forward, but every head predicts in inference too."""
    levels = [decoder._make_level(index, x) for index, x in enumerate(multi_scale)]
    if sam_features is not None:
        sam_features = _resize(sam_features, levels[decoder.feature_injector_level].size)
    positions = decoder.query_position.weight[None]
    queries = decoder.query_content.weight[None].expand(len(mask_features), -1, -1)
    outputs = []
    output, logits = predict(decoder.head, queries, mask_features, classes, levels[0].size)
    outputs.append(output)
    for index, layer in enumerate(decoder.layers):
        keys, values = decoder._keys_and_values(index, levels, sam_features)
        attend = logits.flatten(2).sigmoid() >= 0.5
        attend = attend | (~attend).all(dim=-1, keepdim=True)
        queries = layer(queries, positions, keys, values, attend)
        next_size = levels[(index + 1) % LEVELS].size
        output, logits = predict(decoder.head, queries, mask_features, classes, next_size)
        outputs.append(output)
        injects = index % LEVELS == decoder.query_injector_level and decoder.query_injector is not None
        if injects and sam_embedding is not None and decoder.query_injector is not None:
            sam_map = decoder.query_injector.input_projection(sam_embedding)
            queries = queries + decoder.head.pool_projection(mask_pooling(sam_map, output["pred_masks"]))
    return {**outputs[-1], "aux_outputs": outputs[:-1]}


def _resize(maps: Tensor, size: Sequence[int]) -> Tensor:
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


@contextmanager
def plain_linear() -> Iterator[None]:
    """A context or decorator in which CMPF's linear layers are PyTorch's."""

    def forward(layer: InferenceLinear, x: Tensor) -> Tensor:
        plain = F.linear(x, layer.weight, layer.bias)
        return F.gelu(plain) if layer.gelu else plain

    with patch.object(InferenceLinear, "forward", forward):
        yield


@torch.no_grad()
def encode_text(model: Any, tokenizer: Any, prompts: Sequence[str], device: torch.device) -> Tensor:
    """(N, E) text embeddings of OpenCLIP's text tower, not normalized."""
    parts = []
    for start in range(0, len(prompts), BATCH):
        tokens = tokenizer(list(prompts[start : start + BATCH])).to(device)
        parts.append(model.encode_text(tokens))
    return torch.cat(parts)
