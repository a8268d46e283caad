# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import numpy as np
import torch

from cmpf.encoders.tiny_training.scenes import (
    CLIP_MEAN,
    CLIP_STD,
    BatchSampler,
    category_flags,
    make_batch,
    make_pool,
    network_input,
)
from cmpf.shapeworld import CATEGORIES, generate_scene

POOL = make_pool(5, first_seed=40, label="test")


def test_a_pool_holds_the_scenes_of_its_seeds() -> None:
    scene = generate_scene(42, seen_only=False)
    assert np.array_equal(POOL.images[2], scene.image)
    assert np.array_equal(POOL.ids[2], scene.ids)
    assert [c for c in POOL.category_ids[2] if c >= 0] == [segment.category_id for segment in scene.segments]
    assert POOL.captions[2] == scene.caption
    assert len(POOL.first(2)) == 2


def test_masks_of_a_batch_cover_each_pixel_once_and_missing_segments_are_empty() -> None:
    batch = make_batch(POOL, np.array([0, 4]), np.array([False, False]))
    assert (batch.masks.sum(dim=1) == 1).all()
    assert not batch.masks[~batch.present].any()
    assert batch.images.shape == (2, 3, 128, 128)


def test_a_mirrored_scene_has_image_and_masks_mirrored_and_the_pool_stays() -> None:
    before = POOL.images.copy()
    plain, mirrored = (make_batch(POOL, np.array([1]), np.array([flip])) for flip in (False, True))
    assert torch.equal(mirrored.images, plain.images.flip(-1))
    assert torch.equal(mirrored.masks, plain.masks.flip(-1))
    assert np.array_equal(POOL.images, before)


def test_every_scene_comes_once_an_epoch() -> None:
    sampler = BatchSampler(POOL, batch_size=2, seed=0)
    captions = [caption for _ in range(5) for caption in sampler.draw().captions]
    assert sorted(captions) == sorted(POOL.captions * 2)


def test_the_networks_see_256_pixels_with_a_gray_of_the_mean_as_zero() -> None:
    gray = torch.tensor(CLIP_MEAN)[None, :, None, None].expand(1, 3, 128, 128)
    x = network_input(gray + torch.tensor(CLIP_STD)[:, None, None], mean=CLIP_MEAN, std=CLIP_STD)
    assert x.shape == (1, 3, 256, 256)
    # (mean + std - mean) / std = 1
    assert torch.allclose(x, torch.ones(()), atol=1e-5)


def test_flags_follow_the_categories() -> None:
    assert category_flags("isthing").tolist() == [category.isthing for category in CATEGORIES]
