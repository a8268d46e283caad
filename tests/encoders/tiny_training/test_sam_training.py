# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Training of tiny SAM: prompts, masks, losses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from cmpf.encoders.tiny import build_tiny_sam
from cmpf.encoders.tiny_training.sam_training import (
    all_prompts,
    boundary,
    decode_points,
    draw_prompts,
    encode_images,
    mask_iou,
    mask_losses,
    soft_targets,
    train_sam,
)
from cmpf.encoders.tiny_training.scenes import make_batch, make_pool

BATCH = make_batch(make_pool(2, first_seed=7, label="test"), np.arange(2), np.zeros(2, np.bool_))


def test_every_point_lies_in_its_mask() -> None:
    prompts = draw_prompts(BATCH, per_image=9, generator=torch.Generator().manual_seed(0))
    # x, y of the 256-pixel input: pixel i of 128 has its middle at 2 i + 1, less half a pixel that SAM adds.
    x, y = ((prompts.points + 0.5 - 1) / 2).round().long().unbind(dim=1)
    assert prompts.masks[torch.arange(18), y, x].all()
    assert prompts.image_index.tolist() == [0] * 9 + [1] * 9


def test_each_segment_is_asked_before_any_is_asked_again() -> None:
    prompts = draw_prompts(BATCH, per_image=9, generator=torch.Generator().manual_seed(1))
    first = prompts.masks[:9].flatten(1).float().unique(dim=0)
    assert len(first) == int(BATCH.present[0].sum())


def test_all_segments_get_one_point_each() -> None:
    prompts = all_prompts(BATCH, generator=torch.Generator().manual_seed(0))
    assert len(prompts.points) == int(BATCH.present.sum())
    assert torch.equal(prompts.category_ids, BATCH.category_ids[BATCH.present])


def test_a_batch_of_prompts_equals_segment_anythings_decoder_image_by_image() -> None:
    torch.manual_seed(0)
    sam = build_tiny_sam()
    points, index = torch.tensor([[10.0, 20.0], [200.0, 30.0], [99.0, 180.0]]), torch.tensor([0, 1, 1])
    with torch.no_grad():
        embeddings = encode_images(sam, BATCH.images)
        masks, iou = decode_points(sam, embeddings, points, index)
        for n in range(3):
            prompt = points[n][None, None], torch.ones(1, 1)
            sparse, dense = sam.prompt_encoder(points=prompt, boxes=None, masks=None)
            expected = sam.mask_decoder.predict_masks(
                image_embeddings=embeddings[index[n]][None],
                image_pe=sam.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
            )
            assert torch.allclose(masks[n], expected[0][0], atol=1e-4)
            assert torch.allclose(iou[n], expected[1][0], atol=1e-4)


def test_targets_are_shares_of_low_resolution_pixels() -> None:
    mask = torch.zeros(1, 128, 128, dtype=torch.bool)
    mask[0, 0, 0] = True
    # One of the 2 x 2 pixels under the first low-resolution pixel.
    assert soft_targets(mask)[0, 0, :2].tolist() == [0.25, 0.0]


POOL = make_pool(4, first_seed=0, label="test")


def half(columns: int) -> torch.Tensor:
    """A mask of the leftmost columns, (1, 64, 64)."""
    mask = torch.zeros(1, 64, 64)
    mask[:, :, :columns] = 1
    return mask


def test_the_boundary_is_two_pixels_wide_on_both_sides() -> None:
    found = boundary(half(32))[0, 10]
    assert found.nonzero()[:, 0].tolist() == [30, 31, 32, 33]


def test_a_right_mask_costs_nothing_and_a_wrong_one_more_than_an_undecided_one() -> None:
    right = (half(32) * 2 - 1) * 20
    logits = torch.stack([right, -right, torch.zeros_like(right)], dim=1)
    good, bad, undecided = mask_losses(logits, half(32))[0].tolist()
    assert good == pytest.approx(0, abs=1e-3)
    assert bad > undecided > good


def test_iou_of_shifted_halves() -> None:
    logits = torch.stack([half(48), half(16)], dim=1) - 0.5
    # 32 of 48 columns, 16 of 32 columns.
    assert mask_iou(logits, half(32))[0].tolist() == pytest.approx([32 / 48, 16 / 32])


def test_two_runs_of_one_seed_give_the_same_weights() -> None:
    def train() -> nn.Module:
        return train_sam(
            POOL, steps=2, batch_size=2, lr=1e-3, seed=3, every=0, on_snapshot=lambda step, model: None
        )

    first, second = train().state_dict(), train().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
