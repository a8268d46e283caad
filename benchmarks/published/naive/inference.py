# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Inputs and ensembles of the published system: images, text embeddings, CLIP's class scores, SAM's votes.

Post-processing is that of benchmarks.published.postprocess, which has no weights.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.published.naive.layers import Words, pool, resize, similarity

CLIP_MEAN, CLIP_STD = (122.7709383, 116.7460125, 104.09373615), (68.5005327, 66.6321579, 70.32316305)
SAM_MEAN, SAM_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
TEMPLATES = [
    "a photo of a {}.",
    "This is a photo of a {}",
    "There is a {} in the scene",
    "There is the {} in the scene",
    "a photo of a {} in the scene",
    *(f"a photo of a {size} {{}}." for size in ("small", "medium", "large")),
    *(f"This is a photo of a {size} {{}}." for size in ("small", "medium", "large")),
    *(f"There is a {size} {{}} in the scene." for size in ("small", "medium", "large")),
]


def normalized(
    image: Tensor, mean: tuple[float, ...], std: tuple[float, ...], padded: tuple[int, int]
) -> Tensor:
    """(1, 3, *padded) float32: the normalized image, zero-padded."""
    canvas = torch.zeros(1, 3, *padded)
    for channel in range(3):
        values = (image[channel].float() - mean[channel]) / std[channel]
        canvas[0, channel, : image.shape[1], : image.shape[2]] = values
    return canvas


def frozen_maps(
    image: Tensor, padded: tuple[int, int], visual: Any, sam: Any
) -> tuple[dict[str, Tensor], Tensor, Tensor | None]:
    """CLIP's maps res2..res5, its map for mask pooling, and SAM's embedding (None = no SAM); without batch axis."""
    x = normalized(image, CLIP_MEAN, CLIP_STD, padded)
    levels = {}
    if hasattr(visual, "trunk"):
        x = visual.trunk.stem(x)
        stages = list(visual.trunk.stages)
    else:
        for conv, norm, act in ((1, 1, 1), (2, 2, 2), (3, 3, 3)):
            x = getattr(visual, f"conv{conv}")(x)
            x = getattr(visual, f"act{act}")(getattr(visual, f"bn{norm}")(x))
        x = visual.avgpool(x)
        stages = [getattr(visual, f"layer{index}") for index in (1, 2, 3, 4)]
    for index, stage in enumerate(stages):
        x = stage(x)
        levels[f"res{index + 2}"] = x[0]
    dense = visual.trunk.norm_pre(x) if hasattr(visual, "trunk") else x
    if sam is None:
        return levels, dense[0], None
    side = sam.image_encoder.img_size
    square = F.interpolate(normalized(image, SAM_MEAN, SAM_STD, padded), size=(side, side), mode="bilinear")
    return levels, dense[0], sam.image_encoder(square)[0]


def words(clip: Any, tokenizer: Any, classes: list[list[str]]) -> Words:
    """Embedding of each synonym: the normalized mean of its normalized prompt embeddings."""
    rows, owners = [], []
    for owner, synonyms in enumerate(classes):
        for name in synonyms:
            prompts = clip.encode_text(tokenizer([t.format(name) for t in TEMPLATES])).double()
            mean = (prompts / prompts.norm(dim=1, keepdim=True)).mean(dim=0)
            rows.append(mean / mean.norm())
            owners.append(owner)
    return Words(torch.stack(rows), owners, len(classes))


def with_void(known: Words, void: Tensor) -> Words:
    row = void.double() / void.double().norm()
    return Words(torch.cat([known.rows, row]), [*known.owners, known.count], known.count + 1)


def clip_embedding(visual: Any, dense: Tensor, mask: Tensor) -> Tensor | None:
    """CLIP's embedding of a mask; None if it is empty and CLIP uses attention pooling."""
    if hasattr(visual, "trunk"):
        cell = pool(dense.double(), mask.double()).float()[None, :, None, None]
        return visual.head(visual.trunk.head(cell))[0].double()
    return attention_pool(visual.attnpool, dense.double(), mask.double())


def attention_pool(weights: Any, dense: Tensor, mask: Tensor) -> Tensor | None:
    """Attention pooling of one query over the cells in which the mask is positive."""
    size = (dense.shape[1], dense.shape[2])
    inside = (resize(mask, size) > 0).flatten()
    if not inside.any():
        return None
    table = weights.positional_embedding.double()
    side = math.isqrt(len(table) - 1)
    positions = resize(table[1:].T.reshape(-1, side, side), size).flatten(1).T
    cells = dense.flatten(1).T

    def project(x: Tensor, name: str) -> Tensor:
        layer = getattr(weights, name)
        return x @ layer.weight.double().T + layer.bias.double()

    query = project(cells.mean(dim=0) + table[0], "q_proj")
    keys, values = (project(cells + positions, name)[inside] for name in ("k_proj", "v_proj"))
    width = len(query) // weights.num_heads
    outputs = []
    for head in range(weights.num_heads):
        part = slice(head * width, (head + 1) * width)
        attention = (keys[:, part] @ query[part] / math.sqrt(width)).softmax(dim=0)
        outputs.append(attention @ values[:, part])
    return project(torch.cat(outputs), "c_proj")


def class_distribution(
    decoder_logits: Tensor,
    embeddings: list[Tensor | None],
    valid: list[bool],
    known: Words,
    scale: float,
    seen: list[bool],
    *,
    alpha: float,
    beta: float,
    valid_only: bool,
) -> Tensor:
    """log(p + 1e-8) of each mask over K classes and void (geometric ensemble)."""
    rows = []
    for logits, embedding, has_cells in zip(decoder_logits, embeddings, valid, strict=True):
        inner = logits[:-1].softmax(dim=0)
        product = inner.clone()
        if embedding is not None and (has_cells or not valid_only):
            outer = similarity(embedding[None], known, scale)[0].softmax(dim=0)
            for k in range(known.count):
                weight = alpha if seen[k] else beta
                product[k] = inner[k] ** (1 - weight) * outer[k] ** weight
        probability = product / product.sum()
        void = logits.softmax(dim=0)[-1]
        rows.append(torch.cat([probability * (1 - void), void[None]]))
    return torch.log(torch.stack(rows) + 1e-8)


def ensembled(
    scores: Tensor,
    probabilities: Tensor,
    sam_masks: Tensor,
    seen: list[bool],
    *,
    epsilon: float,
    threshold: float,
) -> Tensor:
    """OpenSeg Ensemble: SAM's masks vote for unseen classes."""
    unseen = [k for k, known in enumerate(seen) if not known]
    kept = [m for m, row in enumerate(probabilities) if any(row[k] > threshold for k in unseen)]
    if not len(sam_masks):
        return scores
    result = scores.clone()
    for k in unseen:
        votes = sum((probabilities[m, k] * sam_masks[m].sigmoid() for m in kept), torch.zeros_like(scores[k]))
        result[k] = (1 - epsilon) * scores[k] + epsilon * votes
    return result


def nearest(mask: Tensor, size: tuple[int, int]) -> Tensor:
    rows = [y * mask.shape[0] // size[0] for y in range(size[0])]
    columns = [x * mask.shape[1] // size[1] for x in range(size[1])]
    return mask[rows][:, columns]


def squeezed(mask: Tensor, cells: tuple[int, int]) -> Tensor:
    """A mask as in the published pooling: nearest-neighbor resized to the map, zero-padded to a multiple of 32."""
    small = nearest(mask, cells)
    padded = torch.zeros(math.ceil(cells[0] / 32) * 32, math.ceil(cells[1] / 32) * 32, dtype=mask.dtype)
    padded[: cells[0], : cells[1]] = small
    return padded
