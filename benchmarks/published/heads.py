# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Prediction heads and transformer decoder as published: a full prediction after every layer, classes in a loop."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from cmpf.modeling.heads import PredictionHead
from cmpf.modeling.transformer_decoder import TransformerDecoder
from cmpf.types import ClassEmbeddings, DecoderOutput, HeadOutput

LEVELS = 3


def class_logits(x_BQE: Tensor, embeddings: ClassEmbeddings, scale: Tensor | float) -> Tensor:
    """(B, Q, K): class by class the best synonym."""
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
    """One head: class logits and masks at stride 4, and where the next layer may read (B, Q, h, w)."""
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
    """As TransformerDecoder.forward, and every head predicts in inference too."""
    levels = [decoder._level(index, x) for index, x in enumerate(multi_scale)]
    if sam_features is not None:
        sam_features = _resize(sam_features, levels[decoder.feature_injector_level].size)
    positions = decoder.query_position.weight[None]
    queries = decoder.query_content.weight[None].expand(len(mask_features), -1, -1)
    outputs = []
    output, logits = predict(decoder.head, queries, mask_features, classes, levels[0].size)
    outputs.append(output)
    for index, layer in enumerate(decoder.layers):
        keys, values = decoder._memory(index, levels, sam_features)
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
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)
