# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import numpy as np
import torch

from cmpf.encoders.tiny import build_tiny_sam
from tools.tiny_training.prompts import all_prompts, decode_points, draw_prompts, encode_images, soft_targets
from tools.tiny_training.scenes import make_batch, make_pool

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
