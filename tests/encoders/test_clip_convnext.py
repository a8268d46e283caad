# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""ConvNeXt tower: maps and mask embeddings."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.encoders import CONVNEXT, fill, open_clip_model, random_images
from torch import Tensor
from torch.nn import functional as F

from cmpf.encoders.clip_backbones import ConvNeXtBackbone


@pytest.fixture(scope="module", params=["mlp", "linear"])
def visual(request: pytest.FixtureRequest) -> Any:
    return open_clip_model(vision={**CONVNEXT, "timm_proj": request.param}).visual.requires_grad_(False)


def naive(visual: Any, dense: Tensor, masks: Tensor) -> Tensor:
    """Each mask alone: pool its cells, then timm's head and OpenCLIP's projection."""
    rows = []
    for random_image, queries in zip(dense, masks, strict=True):
        for query in queries:
            logits = F.interpolate(
                query[None, None], size=random_image.shape[-2:], mode="bilinear", align_corners=False
            )
            inside = logits[0, 0] > 0
            pooled = random_image[:, inside].mean(dim=1) if inside.any() else torch.zeros(len(random_image))
            rows.append(visual.head(visual.trunk.head(pooled[None, :, None, None]))[0])
    return torch.stack(rows).view(*masks.shape[:2], -1)


def test_maps_are_those_of_the_trunk(visual: Any) -> None:
    images = random_images(1, 3, 64, 96)
    features = ConvNeXtBackbone(visual).features(images)
    final, intermediates = visual.trunk.forward_intermediates(images)
    for level, expected in zip(("res2", "res3", "res4", "res5"), intermediates, strict=True):
        torch.testing.assert_close(features.levels[level], expected)
    torch.testing.assert_close(features.dense, final)


def test_the_dense_map_is_normalized_where_the_trunk_normalizes_before_pooling() -> None:
    from timm.models.convnext import ConvNeXt

    visual = open_clip_model(vision=CONVNEXT).visual
    visual.trunk = fill(
        ConvNeXt(depths=(1, 1, 1, 1), dims=(8, 8, 8, 8), head_norm_first=True, num_classes=0)
    ).eval()
    features = ConvNeXtBackbone(visual).features(random_images(1, 3, 64, 64))
    assert not torch.allclose(features.dense, features.levels["res5"])
    torch.testing.assert_close(features.dense, visual.trunk.norm_pre(features.levels["res5"]))


def test_a_mask_of_everything_is_clips_own_image_embedding(visual: Any) -> None:
    images = random_images(2, 3, 64, 64)
    backbone = ConvNeXtBackbone(visual)
    embeddings, _ = backbone.embed_masks(backbone.features(images).dense, torch.ones(2, 1, 16, 16))
    torch.testing.assert_close(embeddings[:, 0], visual(images), atol=1e-5, rtol=1e-4)


def test_masks_of_a_batch_agree_with_a_loop_over_masks(visual: Any) -> None:
    dense, masks = random_images(2, 64, 3, 4), random_images(2, 5, 24, 32, name="masks")
    masks[1, 2] = -1.0
    embeddings, valid = ConvNeXtBackbone(visual).embed_masks(dense, masks)
    torch.testing.assert_close(embeddings, naive(visual, dense, masks), atol=1e-5, rtol=1e-4)
    assert valid.tolist() == [[True] * 5, [True, True, False, True, True]]
