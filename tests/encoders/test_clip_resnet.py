# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""ModifiedResNet tower: maps and the masked attention pool."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.encoders import RESNET, open_clip_model, random_images
from torch import Tensor
from torch.nn import functional as F

from cmpf.encoders.clip_backbones import ResNetBackbone


@pytest.fixture(scope="module")
def visual() -> Any:
    return open_clip_model(vision=RESNET).visual.requires_grad_(False)


def naive(pool: Any, image_Chw: Tensor, inside_hw: Tensor) -> Tensor:
    """One mask of one image through torch's own attention, with only the positions inside the mask."""
    side = int((len(pool.positional_embedding) - 1) ** 0.5)
    table = pool.positional_embedding[1:].view(side, side, -1).permute(2, 0, 1)[None]
    table = F.interpolate(table, size=image_Chw.shape[-2:], mode="bilinear", align_corners=False)[0]
    query = image_Chw.mean(dim=(1, 2)) + pool.positional_embedding[0]
    keys = (image_Chw + table)[:, inside_hw].T
    output, _ = F.multi_head_attention_forward(
        query=query[None, None],
        key=keys[:, None],
        value=keys[:, None],
        embed_dim_to_check=len(query),
        num_heads=pool.num_heads,
        in_proj_weight=None,
        in_proj_bias=torch.cat([pool.q_proj.bias, pool.k_proj.bias, pool.v_proj.bias]),
        bias_k=None,
        bias_v=None,
        add_zero_attn=False,
        dropout_p=0.0,
        out_proj_weight=pool.c_proj.weight,
        out_proj_bias=pool.c_proj.bias,
        use_separate_proj_weight=True,
        q_proj_weight=pool.q_proj.weight,
        k_proj_weight=pool.k_proj.weight,
        v_proj_weight=pool.v_proj.weight,
        training=False,
        need_weights=False,
    )
    return output[0, 0]


def test_maps_are_those_of_the_tower(visual: Any) -> None:
    images = random_images(1, 3, 64, 96)
    features = ResNetBackbone(visual).features(images)
    expected = visual.forward_intermediates(images, intermediates_only=True)["image_intermediates"]
    for level, values in zip(("res2", "res3", "res4", "res5"), expected[1:], strict=True):
        torch.testing.assert_close(features.levels[level], values)
    assert torch.equal(features.dense, features.levels["res5"])


@pytest.mark.parametrize("size", [(2, 2), (3, 5)], ids=["the table's own size", "another size"])
def test_masks_of_a_batch_agree_with_torchs_attention_mask_by_mask(
    visual: Any, size: tuple[int, int]
) -> None:
    dense, masks = random_images(2, 256, *size), random_images(2, 6, *size, name="masks")
    embeddings, valid = ResNetBackbone(visual).embed_masks(dense, masks)
    assert embeddings.shape == (2, 6, 24)
    for b in range(2):
        for q in range(6):
            inside = masks[b, q] > 0
            assert bool(valid[b, q]) == bool(inside.any())
            if inside.any():
                expected = naive(visual.attnpool, dense[b], inside)
                torch.testing.assert_close(embeddings[b, q], expected, atol=1e-5, rtol=1e-4)


def test_masks_of_another_size_are_resized_to_the_map(visual: Any) -> None:
    dense, masks = random_images(1, 256, 3, 4), random_images(1, 5, 24, 32, name="masks")
    resized = F.interpolate(masks, size=(3, 4), mode="bilinear", align_corners=False)
    backbone = ResNetBackbone(visual)
    torch.testing.assert_close(backbone.embed_masks(dense, masks)[0], backbone.embed_masks(dense, resized)[0])


def test_an_empty_mask_gives_zeros_and_no_nan_and_is_not_valid(visual: Any) -> None:
    dense, masks = random_images(1, 256, 2, 3), torch.full((1, 3, 2, 3), -1.0)
    masks[0, 1, 0, 0] = 1.0
    masks[0, 2] = 0.0  # zero is outside
    embeddings, valid = ResNetBackbone(visual).embed_masks(dense, masks)
    assert valid.tolist() == [[False, True, False]]
    assert embeddings[0, [0, 2]].eq(0).all()
    assert embeddings[0, 1].abs().sum() > 0
    assert torch.isfinite(embeddings).all()


def test_cells_outside_the_mask_matter_only_through_the_query(visual: Any) -> None:
    dense = random_images(1, 256, 2, 2)
    masks = torch.tensor([[[[1.0, -1.0], [-1.0, -1.0]]]])
    swapped = dense.clone()
    swapped[0, :, 1, 0], swapped[0, :, 1, 1] = dense[0, :, 1, 1], dense[0, :, 1, 0]  # the same mean
    backbone = ResNetBackbone(visual)
    torch.testing.assert_close(backbone.embed_masks(dense, masks)[0], backbone.embed_masks(swapped, masks)[0])
