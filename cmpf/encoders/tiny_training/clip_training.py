# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Contrastive training of tiny CLIP on regions and whole scenes: words to read, features of regions, losses."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmpf.common.tensors import mask_pooling, resize_bilinear
from cmpf.encoders.clip import encode_tokens
from cmpf.encoders.text import TEMPLATES
from cmpf.encoders.tiny import build_tiny_clip_model, tiny_tokenizer
from cmpf.encoders.tiny_training.scenes import (
    CLIP_MEAN,
    CLIP_STD,
    SceneBatch,
    ScenePool,
    network_input,
)
from cmpf.encoders.tiny_training.training import Plan, train
from cmpf.shapeworld import CATEGORIES, Category
from cmpf.shapeworld.categories import MATERIALS, SHAPES

_ANY_THING = ("thing", "object", "shape")


def material_words(category: Category) -> list[str]:
    """Words for the material of a thing: "red", "scarlet"."""
    words = [
        word.removesuffix(category.shape).strip() for word in category.words if word.endswith(category.shape)
    ]
    return list(dict.fromkeys(words))


def shape_words(category: Category) -> list[str]:
    """Words for the shape of a thing: "circle", "disc"."""
    words = [
        word.removeprefix(category.material).strip()
        for word in category.words
        if word.startswith(category.material)
    ]
    return list(dict.fromkeys(words))


def phrases(category: Category) -> list[str]:
    """All words for a category; for things every material word with every shape word ("scarlet disc")."""
    if not category.isthing:
        return list(category.words)
    return [f"{material} {shape}" for material in material_words(category) for shape in shape_words(category)]


def _first_with(attribute: str, value: str) -> Category:
    return next(category for category in CATEGORIES if getattr(category, attribute) == value)


class PromptSampler:
    """Draws one prompt for each category, material and shape."""

    def __init__(self, *, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._categories = [phrases(category) for category in CATEGORIES]
        self._materials = [
            [
                f"{word} {noun}"
                for word in material_words(_first_with("material", name))
                for noun in _ANY_THING
            ]
            for name in MATERIALS
        ]
        self._shapes = [shape_words(_first_with("shape", name)) for name in SHAPES]

    def _draw(self, groups: list[list[str]]) -> list[str]:
        prompts = []
        for words in groups:
            word = words[int(self._rng.integers(len(words)))]
            prompts.append(TEMPLATES[int(self._rng.integers(len(TEMPLATES)))].format(word))
        return prompts

    def draw(self) -> list[str]:
        """54 + 8 + 6 prompts, in the order of CATEGORIES, MATERIALS and SHAPES."""
        return self._draw(self._categories) + self._draw(self._materials) + self._draw(self._shapes)


def read(model: nn.Module, tokenizer: Any, texts: list[str]) -> Tensor:
    """Embeddings of texts, L2-normalized: (N, E), with gradient."""
    tokens = tokenizer(texts)
    # Cut after the longest text's end token, which has the highest number.
    length = int(tokens.argmax(dim=1).max()) + 1
    return F.normalize(encode_tokens(model, tokens[:, :length]), dim=-1)


def dense_features(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Maps of the frozen trunk's third stage and of its end, as inference reads them.

    Args:
        images: (B, 3, P, P), 0..255.
    Returns:
        (B, 128, 16, 16) and (B, 192, 8, 8), float32.
    """
    clip: Any = model
    trunk = clip.visual.trunk
    x = network_input(images, mean=CLIP_MEAN, std=CLIP_STD)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=model.training):
        x = trunk.stem(x)
        for stage in trunk.stages[:3]:
            x = stage(x)
        dense = trunk.norm_pre(trunk.stages[3](x))
    return x.float(), dense.float()


def project(model: nn.Module, pooled_NC: Tensor) -> Tensor:
    """Pooled vectors of the dense map in CLIP's joint space, L2-normalized: (N, E)."""
    clip: Any = model
    return F.normalize(clip.visual.head(clip.visual.trunk.head(pooled_NC[:, :, None, None])), dim=-1)


def mask_logits(masks: Tensor) -> Tensor:
    """Ground-truth masks (B, S, P, P) bool as logits -1 and 1."""
    return masks.float() * 2 - 1


def _whole(masks: Tensor, side: int) -> Tensor:
    return (resize_bilinear(mask_logits(masks), (side, side)) > 0).float()


def imperfect_masks(masks: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Cells of a coarse map for each mask, varied so that naming does not depend on a perfect mask.

    Half of the masks are cut as in inference. The others take the cells of which more than a random share is
    covered, from bloated to eroded, and every second one of these loses half of its cells.

    Args:
        masks: (B, S, P, P) bool.
        side: of the map.
        generator: source of all choices.
    Returns:
        (B, S, side, side) float, 0 or 1; a mask that comes out empty is cut as in inference.
    """
    whole = _whole(masks, side)
    count = masks.shape[:2]
    share = F.adaptive_avg_pool2d(masks.float(), side)
    threshold = 0.1 + 0.7 * torch.rand(count, generator=generator)
    varied = (share > threshold[..., None, None]).float()
    keep = torch.rand(varied.shape, generator=generator) < 0.5
    thinned = torch.rand(count, generator=generator) < 0.5
    varied = torch.where(thinned[..., None, None], varied * keep, varied)
    use = (torch.rand(count, generator=generator) < 0.5) & (varied.sum(dim=(-2, -1)) > 0)
    return torch.where(use[..., None, None], varied, whole)


def pool_cells(features: Tensor, cells: Tensor) -> Tensor:
    """Mean feature (B, S, C) of the chosen cells (B, S, h, w), 0 or 1."""
    return mask_pooling(features, cells * 2 - 1)


NOT_A_THING = -100  # ignored by the cross-entropies of materials and shapes


def _factor_index(attribute: str, values: tuple[str, ...]) -> Tensor:
    """(54,) int64: index of each category's material or shape, NOT_A_THING for stuff."""
    found = [getattr(category, attribute) for category in CATEGORIES]
    return torch.tensor([values.index(value) if value else NOT_A_THING for value in found])


class AttributeHeads(nn.Module):
    """Linear classifiers of category, material and shape on pooled features; they only speed learning up."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.heads = nn.ModuleList(
            nn.Linear(channels, n) for n in (len(CATEGORIES), len(MATERIALS), len(SHAPES))
        )

    def forward(self, pooled_NC: Tensor, labels: list[Tensor]) -> Tensor:
        """Sum of the three cross-entropies; labels as `ClipObjective.labels` gives them."""
        x = self.norm(pooled_NC)
        return torch.stack([_cross_entropy(h(x), y) for h, y in zip(self.heads, labels, strict=True)]).sum()


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over the labels that count; 0 if none does."""
    if bool((labels == NOT_A_THING).all()):
        return logits.sum() * 0
    return F.cross_entropy(logits, labels, ignore_index=NOT_A_THING)


def text_to_regions(logits_NK: Tensor, labels_N: Tensor) -> Tensor:
    """Each text against all regions of the batch; all regions of its class are right, equally."""
    positive = labels_N[:, None] == torch.arange(logits_NK.shape[1])
    count = positive.sum(dim=0)
    log_share = F.log_softmax(logits_NK, dim=0)
    per_text = -(log_share * positive).sum(dim=0) / count.clamp(min=1)
    return per_text[count > 0].mean()


class ClipObjective(nn.Module):
    """Loss of a batch of scenes; holds the heads that are thrown away after training."""

    def __init__(self, model: nn.Module, *, seed: int) -> None:
        super().__init__()
        clip: Any = model
        stages = clip.visual.trunk.feature_info
        self.heads = nn.ModuleList(AttributeHeads(stages[i]["num_chs"]) for i in (2, 3))
        self._tokenizer = tiny_tokenizer()
        self._prompts = PromptSampler(seed=seed)
        self._generator = torch.Generator().manual_seed(seed)
        self._factors = [_factor_index("material", MATERIALS), _factor_index("shape", SHAPES)]

    def labels(self, categories_N: Tensor) -> list[Tensor]:
        """Category, material and shape index of each region."""
        return [categories_N, *(factor[categories_N] for factor in self._factors)]

    def forward(self, model: nn.Module, batch: SceneBatch) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Loss terms, weighted; there is nothing to show beside them."""
        clip: Any = model
        scale = clip.logit_scale.exp().clamp(max=100)
        stage3, dense = dense_features(model, batch.images)
        cells = [imperfect_masks(batch.masks, side, self._generator) for side in (16, 8)]
        valid = batch.present & (cells[1].sum(dim=(-2, -1)) > 0)
        pooled = [pool_cells(f, c)[valid] for f, c in zip((stage3, dense), cells, strict=True)]
        labels = self.labels(batch.category_ids[valid])
        sizes = [len(CATEGORIES), len(MATERIALS), len(SHAPES)]
        words = torch.split(read(model, self._tokenizer, self._prompts.draw()), sizes)
        captions = read(model, self._tokenizer, batch.captions)
        regions = project(model, pooled[1])
        logits = [scale * regions @ word.T for word in words]
        scenes = scale * project(model, dense.mean(dim=(2, 3))) @ captions.T
        right = torch.arange(len(scenes))
        terms = {
            "region": F.cross_entropy(logits[0], labels[0]),
            "text": 0.3 * text_to_regions(logits[0], labels[0]),
            "words": 0.3 * (_cross_entropy(logits[1], labels[1]) + _cross_entropy(logits[2], labels[2])),
            "scene": 0.1 * (F.cross_entropy(scenes, right) + F.cross_entropy(scenes.T, right)),
            "stage3": 0.3 * self.heads[0](pooled[0], labels),
            "dense": 0.3 * self.heads[1](pooled[1], labels),
        }
        return terms, {}


def train_clip(pool: ScenePool, plan: Plan) -> nn.Module:
    """Trains from random weights; returns the averaged model. The seed is also that of prompts and masks."""
    torch.manual_seed(plan.seed)
    model = build_tiny_clip_model().to(memory_format=torch.channels_last).train()
    return train(model, ClipObjective(model, seed=plan.seed), pool, plan, title="tiny CLIP")
