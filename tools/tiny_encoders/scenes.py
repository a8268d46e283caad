# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""In-memory ShapeWorld scenes for training the tiny encoders, and batches of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from cmpf.shapeworld import CATEGORIES, generate_scene

# Disjoint from the seeds of the datasets that `python -m cmpf.shapeworld` writes.
TRAINING_SEEDS = 3_000_000_000
VALIDATION_SEEDS = 7_000_000_000
SEEDS_PER_RUN = 10_000_000

INPUT_SIZE = 256
CLIP_MEAN, CLIP_STD = (122.7709383, 116.7460125, 104.09373615), (68.5005327, 66.6321579, 70.32316305)


@dataclass(frozen=True)
class ScenePool:
    """N scenes of P x P pixels with seen and unseen categories and at most S segments each.

    images: (N, P, P, 3) uint8.
    ids: (N, P, P) uint8 segment ids, 1..S.
    category_ids: (N, S) int64, -1 = no segment.
    captions: one per scene.
    """

    images: NDArray[np.uint8]
    ids: NDArray[np.uint8]
    category_ids: NDArray[np.int64]
    captions: list[str]

    def __len__(self) -> int:
        return len(self.captions)

    def first(self, count: int) -> ScenePool:
        """Returns the first `count` scenes."""
        return ScenePool(
            self.images[:count], self.ids[:count], self.category_ids[:count], self.captions[:count]
        )


def make_pool(count: int, *, first_seed: int, label: str) -> ScenePool:
    """Generates the scenes of seeds `first_seed` .. `first_seed + count - 1`; `label` names the progress bar."""
    images, ids, categories, captions = [], [], [], []
    for seed in tqdm(range(first_seed, first_seed + count), desc=label, mininterval=5):
        scene = generate_scene(seed, seen_only=False)
        images.append(scene.image)
        ids.append(scene.ids.astype(np.uint8))
        categories.append([segment.category_id for segment in scene.segments])
        captions.append(scene.caption)
    max_segments = max(len(scene_categories) for scene_categories in categories)
    category_ids = np.full((count, max_segments), -1, np.int64)
    for row, scene_categories in zip(category_ids, categories, strict=True):
        row[: len(scene_categories)] = scene_categories
    return ScenePool(np.stack(images), np.stack(ids), category_ids, captions)


@dataclass(frozen=True)
class SceneBatch:
    """images: (B, 3, P, P) float 0..255; masks: (B, S, P, P) bool; category_ids: (B, S) int64, -1 = no segment."""

    images: Tensor
    masks: Tensor
    category_ids: Tensor
    captions: list[str]

    @property
    def present(self) -> Tensor:
        """(B, S) bool: which segments exist."""
        return self.category_ids >= 0


def make_batch(pool: ScenePool, index: NDArray[np.int64], flip: NDArray[np.bool_]) -> SceneBatch:
    """Batch of the scenes at `index`, flipped horizontally where `flip` is True.

    No other augmentation is used, because it could change the meaning of words (colors, shapes).
    """
    images, ids = pool.images[index], pool.ids[index]
    images[flip], ids[flip] = images[flip, :, ::-1], ids[flip, :, ::-1]
    segments = torch.arange(1, pool.category_ids.shape[1] + 1)[None, :, None, None]
    return SceneBatch(
        images=torch.from_numpy(images).permute(0, 3, 1, 2).float(),
        masks=torch.from_numpy(ids)[:, None] == segments,
        category_ids=torch.from_numpy(pool.category_ids[index]),
        captions=[pool.captions[i] for i in index],
    )


class BatchSampler:
    """Infinite random batches: each scene once per epoch, flipped horizontally with probability 0.5."""

    def __init__(self, pool: ScenePool, *, batch_size: int, seed: int) -> None:
        self._pool, self._batch_size = pool, batch_size
        self._rng = np.random.default_rng(seed)
        self._order: NDArray[np.int64] = np.empty(0, np.int64)

    def draw(self) -> SceneBatch:
        """The next batch."""
        while len(self._order) < self._batch_size:
            self._order = np.concatenate([self._order, self._rng.permutation(len(self._pool))])
        index, self._order = self._order[: self._batch_size], self._order[self._batch_size :]
        return make_batch(self._pool, index, self._rng.random(len(index)) < 0.5)


def network_input(images: Tensor, *, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Normalizes images (B, 3, P, P) and resizes them to 256 x 256, in channels-last memory format."""
    scaled = (images - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    resized = F.interpolate(scaled, size=(INPUT_SIZE, INPUT_SIZE), mode="bilinear", align_corners=False)
    return resized.contiguous(memory_format=torch.channels_last)


def category_flags(name: str) -> Tensor:
    """A boolean attribute, such as "seen" or "isthing", of all categories, (54,)."""
    return torch.tensor([bool(getattr(category, name)) for category in CATEGORIES])
