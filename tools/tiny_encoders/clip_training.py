# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Contrastive training of tiny CLIP on regions and scenes: prompts, region features and losses."""

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
from cmpf.shapeworld import CATEGORIES, Category
from cmpf.shapeworld.categories import MATERIALS, SHAPES
from tiny_encoders.scenes import (
    CLIP_MEAN,
    CLIP_STD,
    SceneBatch,
    ScenePool,
    network_input,
)
from tiny_encoders.training import Plan, train

_GENERIC_NOUNS = ("thing", "object", "shape")
IGNORE_INDEX = -100  # label of stuff in the cross-entropies of materials and shapes


def material_words(category: Category) -> list[str]:
    """Synonyms of a thing's material: "red", "scarlet"."""
    words = [
        word.removesuffix(category.shape).strip() for word in category.words if word.endswith(category.shape)
    ]
    return list(dict.fromkeys(words))


def shape_words(category: Category) -> list[str]:
    """Synonyms of a thing's shape: "circle", "disc"."""
    words = [
        word.removeprefix(category.material).strip()
        for word in category.words
        if word.startswith(category.material)
    ]
    return list(dict.fromkeys(words))


def phrases(category: Category) -> list[str]:
    """All names of a category; for things all combinations of material and shape words ("scarlet disc")."""
    if not category.isthing:
        return list(category.words)
    return [f"{material} {shape}" for material in material_words(category) for shape in shape_words(category)]


def _first_with(attribute: str, value: str) -> Category:
    return next(category for category in CATEGORIES if getattr(category, attribute) == value)


class PromptSampler:
    """Samples one prompt for each category, material and shape."""

    def __init__(self, *, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._categories = [phrases(category) for category in CATEGORIES]
        self._materials = [
            [
                f"{word} {noun}"
                for word in material_words(_first_with("material", name))
                for noun in _GENERIC_NOUNS
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


def embed_texts(model: nn.Module, tokenizer: Any, texts: list[str]) -> Tensor:
    """L2-normalized text embeddings (N, E), with gradient."""
    tokens = tokenizer(texts)
    # Truncate to the longest text; the end token has the largest id.
    length = int(tokens.argmax(dim=1).max()) + 1
    return F.normalize(encode_tokens(model, tokens[:, :length]), dim=-1)


def dense_features(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Feature maps of the trunk's third stage and of its output.

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
    """Projects pooled dense features to CLIP's joint space, L2-normalized: (N, E)."""
    clip: Any = model
    return F.normalize(clip.visual.head(clip.visual.trunk.head(pooled_NC[:, :, None, None])), dim=-1)


def mask_logits(masks: Tensor) -> Tensor:
    """Ground-truth masks (B, S, P, P) bool as logits -1 and 1."""
    return masks.float() * 2 - 1


def augment_masks(masks: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Downsamples masks with random errors, so that classification is robust to imperfect masks.

    Half of the masks are downsampled as in inference. The others contain the cells that are covered by more than a
    random fraction, which dilates or erodes them, and half of these lose a random half of their cells.

    Args:
        masks: (B, S, P, P) bool.
        side: side of the result.
        generator: random generator.
    Returns:
        (B, S, side, side) float, 0 or 1; a mask that would be empty is downsampled as in inference.
    """
    exact = (resize_bilinear(mask_logits(masks), (side, side)) > 0).float()
    count = masks.shape[:2]
    coverage = F.adaptive_avg_pool2d(masks.float(), side)
    threshold = 0.1 + 0.7 * torch.rand(count, generator=generator)
    augmented = (coverage > threshold[..., None, None]).float()
    keep = torch.rand(augmented.shape, generator=generator) < 0.5
    drop_cells = torch.rand(count, generator=generator) < 0.5
    augmented = torch.where(drop_cells[..., None, None], augmented * keep, augmented)
    use = (torch.rand(count, generator=generator) < 0.5) & (augmented.sum(dim=(-2, -1)) > 0)
    return torch.where(use[..., None, None], augmented, exact)


def pool_cells(features: Tensor, cells: Tensor) -> Tensor:
    """Mean feature (B, S, C) of the cells (B, S, h, w) that are 1."""
    return mask_pooling(features, cells * 2 - 1)


def _attribute_labels(attribute: str, values: tuple[str, ...]) -> Tensor:
    """Index (54,) int64 of each category's material or shape, IGNORE_INDEX for stuff."""
    names = [getattr(category, attribute) for category in CATEGORIES]
    return torch.tensor([values.index(name) if name else IGNORE_INDEX for name in names])


class AttributeHeads(nn.Module):
    """Auxiliary linear classifiers of category, material and shape on pooled features."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.heads = nn.ModuleList(
            nn.Linear(channels, n) for n in (len(CATEGORIES), len(MATERIALS), len(SHAPES))
        )

    def forward(self, pooled_NC: Tensor, labels: list[Tensor]) -> Tensor:
        """Sum of the three cross-entropies; labels: see `ClipObjective.labels`."""
        x = self.norm(pooled_NC)
        return torch.stack([_cross_entropy(h(x), y) for h, y in zip(self.heads, labels, strict=True)]).sum()


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over labels other than IGNORE_INDEX; 0 if there are none."""
    if bool((labels == IGNORE_INDEX).all()):
        return logits.sum() * 0
    return F.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX)


def text_to_regions(logits_NK: Tensor, labels_N: Tensor) -> Tensor:
    """Contrastive loss of each text over all regions of the batch; all regions of its class are equal positives."""
    positive = labels_N[:, None] == torch.arange(logits_NK.shape[1])
    count = positive.sum(dim=0)
    log_share = F.log_softmax(logits_NK, dim=0)
    per_text = -(log_share * positive).sum(dim=0) / count.clamp(min=1)
    return per_text[count > 0].mean()


class ClipObjective(nn.Module):
    """Losses of a batch of scenes, with auxiliary heads that are discarded after training."""

    def __init__(self, model: nn.Module, *, seed: int) -> None:
        super().__init__()
        clip: Any = model
        stages = clip.visual.trunk.feature_info
        self.heads = nn.ModuleList(AttributeHeads(stages[i]["num_chs"]) for i in (2, 3))
        self._tokenizer = tiny_tokenizer()
        self._prompts = PromptSampler(seed=seed)
        self._generator = torch.Generator().manual_seed(seed)
        self._attributes = [_attribute_labels("material", MATERIALS), _attribute_labels("shape", SHAPES)]

    def labels(self, categories_N: Tensor) -> list[Tensor]:
        """Category, material and shape index of each region."""
        return [categories_N, *(labels[categories_N] for labels in self._attributes)]

    def forward(self, model: nn.Module, batch: SceneBatch) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Weighted losses, and no additional metrics."""
        clip: Any = model
        scale = clip.logit_scale.exp().clamp(max=100)
        stage3, dense = dense_features(model, batch.images)
        cells = [augment_masks(batch.masks, side, self._generator) for side in (16, 8)]
        valid = batch.present & (cells[1].sum(dim=(-2, -1)) > 0)
        pooled = [pool_cells(f, c)[valid] for f, c in zip((stage3, dense), cells, strict=True)]
        labels = self.labels(batch.category_ids[valid])
        sizes = [len(CATEGORIES), len(MATERIALS), len(SHAPES)]
        texts = torch.split(embed_texts(model, self._tokenizer, self._prompts.draw()), sizes)
        captions = embed_texts(model, self._tokenizer, batch.captions)
        regions = project(model, pooled[1])
        logits = [scale * regions @ text.T for text in texts]
        scene_logits = scale * project(model, dense.mean(dim=(2, 3))) @ captions.T
        scene_labels = torch.arange(len(scene_logits))
        losses = {
            "region": F.cross_entropy(logits[0], labels[0]),
            "text": 0.3 * text_to_regions(logits[0], labels[0]),
            "words": 0.3 * (_cross_entropy(logits[1], labels[1]) + _cross_entropy(logits[2], labels[2])),
            "scene": 0.1
            * (F.cross_entropy(scene_logits, scene_labels) + F.cross_entropy(scene_logits.T, scene_labels)),
            "stage3": 0.3 * self.heads[0](pooled[0], labels),
            "dense": 0.3 * self.heads[1](pooled[1], labels),
        }
        return losses, {}


def train_clip(pool: ScenePool, plan: Plan) -> nn.Module:
    """Trains tiny CLIP from random weights and returns the averaged model."""
    torch.manual_seed(plan.seed)
    model = build_tiny_clip_model().to(memory_format=torch.channels_last).train()
    return train(model, ClipObjective(model, seed=plan.seed), pool, plan, title="tiny CLIP")
