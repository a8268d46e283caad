# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Contrastive training of tiny CLIP on regions and whole scenes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import trange

from cmpf.encoders.tiny import build_tiny_clip_model, tiny_tokenizer
from cmpf.shapeworld import CATEGORIES
from cmpf.shapeworld.categories import MATERIALS, SHAPES
from tools.tiny_training.clip_features import dense_features, imperfect_masks, pool_cells, project
from tools.tiny_training.optimization import AveragedModel, Stepper
from tools.tiny_training.scenes import BatchSampler, SceneBatch, ScenePool
from tools.tiny_training.words import PromptSampler, read

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

    def forward(self, model: nn.Module, batch: SceneBatch) -> dict[str, Tensor]:
        """Loss terms, weighted."""
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
        return {
            "region": F.cross_entropy(logits[0], labels[0]),
            "text": 0.3 * text_to_regions(logits[0], labels[0]),
            "words": 0.3 * (_cross_entropy(logits[1], labels[1]) + _cross_entropy(logits[2], labels[2])),
            "scene": 0.1 * (F.cross_entropy(scenes, right) + F.cross_entropy(scenes.T, right)),
            "stage3": 0.3 * self.heads[0](pooled[0], labels),
            "dense": 0.3 * self.heads[1](pooled[1], labels),
        }


def train_clip(
    pool: ScenePool,
    *,
    steps: int,
    batch_size: int,
    lr: float,
    seed: int,
    every: int,
    on_snapshot: Callable[[int, nn.Module], None],
) -> nn.Module:
    """Trains from random weights.

    Args:
        pool: training scenes.
        steps, batch_size, lr: of AdamW with warm-up and cosine.
        seed: of weights, batches, prompts and masks.
        every: steps between calls of `on_snapshot` with the averaged model; 0 = never.
    Returns:
        The averaged model.
    """
    torch.manual_seed(seed)
    model = build_tiny_clip_model().to(memory_format=torch.channels_last).train()
    objective = ClipObjective(model, seed=seed)
    stepper = Stepper([model, objective], steps=steps, lr=lr, weight_decay=0.05, warmup=200)
    average = AveragedModel(model, decay=0.998)
    sampler = BatchSampler(pool, batch_size=batch_size, seed=seed)
    bar = trange(steps, desc="tiny CLIP", mininterval=10)
    for step in bar:
        losses = objective(model, sampler.draw())
        stepper.step(torch.stack(list(losses.values())).sum())
        average.update()
        if step % 20 == 0:
            bar.set_postfix({name: f"{loss.item():.2f}" for name, loss in losses.items()}, refresh=False)
        if every and (step + 1) % every == 0 and step + 1 < steps:
            on_snapshot(step + 1, average.model)
    return average.model
