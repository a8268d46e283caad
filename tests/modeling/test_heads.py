# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Classification by text, and the prediction head."""

from __future__ import annotations

import math

import torch
from helpers.modeling import class_embeddings, fill_by_name, generator, random
from torch.nn import functional as F

from benchmarks.published import network as published
from cmpf.common.tensors import mask_pooling
from cmpf.modeling.heads import MaskFeatures, PredictionHead, class_logits
from cmpf.types import ClassEmbeddings


def test_a_class_counts_as_its_best_synonym() -> None:
    matrix = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    embeddings = ClassEmbeddings(matrix=matrix, class_of_row=torch.tensor([0, 0, 1]), num_classes=2)
    # (0, 3) normalized is (0, 1). Class 0: max(0, 1) = 1; class 1: 0.8. Times 10.
    logits = class_logits(torch.tensor([[[0.0, 3.0]]]), embeddings, 10.0)
    torch.testing.assert_close(logits, torch.tensor([[[10.0, 8.0]]]))


def test_a_negative_similarity_survives_the_maximum() -> None:
    embeddings = ClassEmbeddings(
        matrix=torch.tensor([[1.0, 0.0], [0.8, 0.6]]), class_of_row=torch.tensor([0, 0]), num_classes=1
    )
    logits = class_logits(torch.tensor([[[-1.0, 0.0]]]), embeddings, 1.0)
    torch.testing.assert_close(logits, torch.tensor([[[-0.8]]]))


def test_1203_classes_agree_with_a_loop_over_classes() -> None:
    synonyms = torch.randint(1, 8, (1203,), generator=generator("synonyms")).tolist()
    embeddings = class_embeddings(*synonyms, width=16)
    x = random("x", 2, 3, 16)
    torch.testing.assert_close(class_logits(x, embeddings, 20.0), published.class_logits(x, embeddings, 20.0))


def test_one_synonym_a_class_needs_no_maximum_and_agrees() -> None:
    embeddings, x = class_embeddings(1, 1, 1, 1), random("x", 2, 3, 6)
    torch.testing.assert_close(class_logits(x, embeddings, 5.0), published.class_logits(x, embeddings, 5.0))


def test_the_order_of_synonyms_inside_a_class_changes_nothing() -> None:
    embeddings, x = class_embeddings(3, 1, 2), random("x", 1, 4, 6)
    order = torch.tensor([2, 0, 1, 3, 5, 4])
    shuffled = ClassEmbeddings(
        matrix=embeddings.matrix[order], class_of_row=embeddings.class_of_row, num_classes=3
    )
    torch.testing.assert_close(class_logits(x, shuffled, 7.0), class_logits(x, embeddings, 7.0))


def test_gradients_reach_the_embedding_the_scale_and_the_best_synonym_only() -> None:
    embeddings, x = class_embeddings(3, 2), random("x", 1, 1, 6).requires_grad_()
    matrix, scale = embeddings.matrix.requires_grad_(), torch.tensor(4.0, requires_grad=True)
    class_logits(x, embeddings, scale).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().max() > 0
    assert scale.grad is not None
    assert scale.grad.abs() > 0
    assert matrix.grad is not None
    assert (matrix.grad.abs().sum(dim=-1) > 0).sum() == 2  # one synonym a class


def test_autocast_keeps_the_logits_in_full_precision() -> None:
    embeddings, x = class_embeddings(3, 2), random("x", 1, 4, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = class_logits(x, embeddings, 100.0)
    torch.testing.assert_close(logits, published.class_logits(x, embeddings, 100.0))


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
