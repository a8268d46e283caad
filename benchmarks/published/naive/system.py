# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The published system on one image, from the frozen encoders to all results, built from the naive parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.published.naive import inference as naive
from benchmarks.published.naive.layers import Sizes, Words, resize, similarity
from benchmarks.published.naive.network import network
from benchmarks.published.postprocess import Sizes as ImageSizes
from benchmarks.published.postprocess import instances, panoptic, restore, semantic_scores


@dataclass(frozen=True)
class Settings:
    """Options of the published evaluation."""

    alpha: float = 0.4
    beta: float = 0.8
    valid_only: bool = False
    resize_before: bool = True
    object_threshold: float = 0.0
    overlap_threshold: float = 0.0
    topk: int = 20
    published_pooling: bool | None = None  # None = no mask ensemble
    epsilon: float = 0.2
    score_threshold: float = 0.5


@dataclass(frozen=True)
class Frozen:
    """Encoders with their tokenizer, and the trained state dict under published names."""

    clip: Any
    tokenizer: Any
    sam: Any
    state: dict[str, Tensor]
    sizes: Sizes


@dataclass(frozen=True)
class Answer:
    """All outputs for one image."""

    heads: list[tuple[Tensor, Tensor]]
    class_logs: Tensor
    valid: list[bool]
    scores: Tensor
    panoptic: tuple[Tensor, list[tuple[int, bool, int]]]
    instance_scores: Tensor


def is_seen(classes: list[list[str]], training: list[list[str]]) -> list[bool]:
    return [any(word in names for word in synonyms for names in training) for synonyms in classes]


@dataclass(frozen=True)
class View:
    """Network outputs for an image: CLIP's map for mask pooling, and all heads."""

    dense: Tensor
    heads: list[tuple[Tensor, Tensor]]


@torch.no_grad()
def look(image: Tensor, padded: tuple[int, int], frozen: Frozen, known: Words) -> View:
    """Runs encoders and network on one image, padded to a size."""
    levels, dense, embedding = naive.frozen_maps(image, padded, frozen.clip.visual, frozen.sam)
    open_words = naive.with_void(known, frozen.state["void_embedding.weight"])
    return View(dense, network(levels, embedding, open_words, frozen.state, frozen.sizes))


@torch.no_grad()
def answer(
    view: View,
    sample: dict[str, Any],
    padded: tuple[int, int],
    frozen: Frozen,
    known: Words,
    seen: list[bool],
    things: list[bool],
    settings: Settings,
) -> Answer:
    """All results for one sample, a dict with image, height, width, and sam_masks if the mask ensemble is used."""
    image, dense, heads = sample["image"], view.dense, view.heads
    unpadded, output = (image.shape[1], image.shape[2]), (sample["height"], sample["width"])
    open_words = naive.with_void(known, frozen.state["void_embedding.weight"])
    logits, masks = heads[-1]
    cells = (dense.shape[1], dense.shape[2])
    valid = [bool((resize(mask, cells) > 0).any()) for mask in masks]
    scale = float(frozen.clip.logit_scale.exp())
    class_logs = naive.class_distribution(
        logits,
        [naive.clip_embedding(frozen.clip.visual, dense, mask) for mask in masks],
        valid,
        known,
        scale,
        seen,
        alpha=settings.alpha,
        beta=settings.beta,
        valid_only=settings.valid_only,
    )
    full = restore(masks, ImageSizes(padded, unpadded, output))
    summed = full if settings.resize_before else restore(masks, ImageSizes(padded, unpadded, unpadded))
    scores = semantic_scores(class_logs, summed)
    if settings.published_pooling is not None:
        on_input = None if settings.published_pooling else (unpadded, padded)
        probabilities = sam_probabilities(sample["sam_masks"], dense, frozen, open_words, scale, on_input)
        sam_masks = resize(sample["sam_masks"].double(), (summed.shape[1], summed.shape[2]))
        scores = naive.ensembled(
            scores,
            probabilities,
            sam_masks,
            seen,
            epsilon=settings.epsilon,
            threshold=settings.score_threshold,
        )
    is_thing = torch.tensor(things)
    ids, segments = panoptic(
        class_logs,
        full,
        is_thing=is_thing,
        object_mask_threshold=settings.object_threshold,
        overlap_threshold=settings.overlap_threshold,
    )
    return Answer(
        heads=heads,
        class_logs=class_logs,
        valid=valid,
        scores=scores if settings.resize_before else resize(scores, output),
        panoptic=(ids, [(number, things[c], c) for number, c in enumerate(segments, start=1)]),
        instance_scores=instances(class_logs, full, topk=settings.topk, is_thing=is_thing)[0],
    )


def sam_probabilities(
    masks: Tensor,
    dense: Tensor,
    frozen: Frozen,
    open_words: Words,
    scale: float,
    on_input: tuple[tuple[int, int], tuple[int, int]] | None,
) -> Tensor:
    """(M, K) CLIP's class probabilities of SAM's masks.

    on_input is the (unpadded, padded) size to align masks with CLIP's map; None = not aligned, as published.
    """
    cells = (dense.shape[1], dense.shape[2])
    rows = []
    for mask in masks.double():
        if on_input is None:
            pooled_with = naive.squeezed(mask, cells)
        else:
            unpadded, padded = on_input
            canvas = torch.full(padded, -1.0, dtype=torch.float64)
            canvas[: unpadded[0], : unpadded[1]] = resize(mask, unpadded)
            pooled_with = naive.nearest(canvas, cells)
        embedding = naive.clip_embedding(frozen.clip.visual, dense, pooled_with)
        if embedding is None:  # an empty mask has no probabilities
            rows.append(torch.zeros(open_words.count - 1, dtype=torch.float64))
        else:
            rows.append(similarity(embedding[None], open_words, scale)[0].softmax(dim=0)[:-1])
    return torch.stack(rows)
