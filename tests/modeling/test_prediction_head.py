# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Tests of the prediction head."""

from __future__ import annotations

import math

import torch
from helpers.modeling import class_embeddings, fill_by_name, random
from torch.nn import functional as F

from cmpf.common.tensors import mask_pooling
from cmpf.modeling.heads import MaskFeatures, PredictionHead, class_logits


def test_a_mask_is_the_product_of_its_embedding_with_every_pixel() -> None:
    features = torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]])[None]  # 2 channels, 1 x 2 pixels
    masks = MaskFeatures(features).masks(torch.tensor([[[1.0, -1.0]]]))
    # Pixel 1: 1 - 3 = -2; pixel 2: 2 - 4 = -2.
    torch.testing.assert_close(masks, torch.tensor([[[[-2.0, -2.0]]]]))


def test_masks_at_another_size_equal_the_resized_masks_and_carry_no_gradient() -> None:
    features, embedding = random("f", 2, 6, 12, 20).requires_grad_(), random("e", 2, 3, 6).requires_grad_()
    mask_features = MaskFeatures(features)
    for size in ((3, 5), (7, 9), (16, 16)):
        expected = F.interpolate(
            mask_features.masks(embedding), size=size, mode="bilinear", align_corners=False
        )
        small = mask_features.masks_at(embedding, size)
        torch.testing.assert_close(small, expected.detach(), atol=1e-5, rtol=1e-5)
        assert not small.requires_grad


def head() -> PredictionHead:
    return fill_by_name(PredictionHead(dim=8, mask_dim=12, embed_dim=6))


def test_class_logits_come_from_the_query_plus_what_its_mask_covers() -> None:
    module, queries, features = head(), random("q", 2, 3, 8), random("f", 2, 12, 5, 7)
    embeddings = class_embeddings(2, 1, 3)
    normalized, embedding = module(queries)
    output = module.predict(normalized, embedding, MaskFeatures(features), embeddings)
    masks = torch.einsum("bqc,bchw->bqhw", module.mask_mlp(module.norm(queries)), features)
    covered = module.pool_projection(mask_pooling(features, masks))
    expected = class_logits(module.class_mlp(module.norm(queries) + covered), embeddings, math.exp(2.0))
    torch.testing.assert_close(output["pred_masks"], masks)
    torch.testing.assert_close(output["pred_logits"], expected)


def test_the_scale_starts_at_its_inverse_temperature_and_stops_at_one_hundred() -> None:
    module = PredictionHead(dim=8, mask_dim=12, embed_dim=6)
    torch.testing.assert_close(module.logit_scale.exp(), torch.tensor(1 / 0.07))
    features, queries, embeddings = (
        MaskFeatures(random("f", 1, 12, 4, 4)),
        random("q", 1, 2, 8),
        class_embeddings(1, 1),
    )
    module.logit_scale.data.fill_(math.log(100))
    at_limit = module.predict(*module(queries), features, embeddings)["pred_logits"]
    module.logit_scale.data.fill_(9.0)
    torch.testing.assert_close(
        module.predict(*module(queries), features, embeddings)["pred_logits"], at_limit
    )


def test_a_query_with_an_empty_mask_has_finite_logits() -> None:
    module, queries = head(), random("q", 1, 2, 8)
    normalized, embedding = module(queries)
    output = module.predict(
        normalized, embedding, MaskFeatures(torch.zeros(1, 12, 4, 4)), class_embeddings(1, 2)
    )
    assert output["pred_logits"].isfinite().all()
