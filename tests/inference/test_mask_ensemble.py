# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The OpenSeg Ensemble of decoder masks and SAM masks."""

from __future__ import annotations

import torch
from torch import Tensor

from cmpf.inference import openseg_ensemble

SEEN = torch.tensor([True, False, False])


def naive_scores(
    probs: Tensor,
    masks: Tensor,
    sam_probs: Tensor,
    sam_masks: Tensor,
    seen: Tensor,
    eps: float,
    threshold: float,
) -> Tensor:
    """Pixel by pixel and class by class, from the formula."""
    classes, (height, width) = probs.shape[1], masks.shape[1:]
    kept = [
        m
        for m in range(len(sam_masks))
        if any(sam_probs[m, c] > threshold for c in range(classes) if not seen[c])
    ]
    scores = torch.zeros(classes, height, width)
    for c in range(classes):
        for y in range(height):
            for x in range(width):
                own = sum(probs[q, c] * masks[q, y, x].sigmoid() for q in range(len(masks)))
                if seen[c] or not kept:
                    scores[c, y, x] = own
                else:
                    sam = sum(sam_probs[m, c] * sam_masks[m, y, x].sigmoid() for m in kept)
                    scores[c, y, x] = (1 - eps) * own + eps * sam
    return scores


def test_the_weighted_sum_over_all_masks_is_the_formula():
    torch.manual_seed(0)
    probs, masks = torch.rand(4, 3), torch.randn(4, 3, 5)
    sam_probs = torch.tensor([[0.9, 0.05, 0.05], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4], [0.2, 0.1, 0.7]])
    sam_masks = torch.randn(4, 3, 5)
    weights, kept = openseg_ensemble(probs, sam_probs, SEEN, epsilon=0.2, score_threshold=0.5)
    assert kept.tolist() == [1, 3]
    assert weights.shape == (6, 3)
    scores = torch.einsum("qk,qhw->khw", weights, torch.cat([masks, sam_masks[kept]]).sigmoid())
    wanted = naive_scores(probs, masks, sam_probs, sam_masks, SEEN, 0.2, 0.5)
    torch.testing.assert_close(scores, wanted)


def test_a_mask_that_is_sure_of_a_seen_class_has_no_vote():
    sam_probs = torch.tensor([[0.98, 0.01, 0.01]])
    probs = torch.rand(2, 3)
    weights, kept = openseg_ensemble(probs, sam_probs, SEEN, epsilon=0.2, score_threshold=0.5)
    assert len(kept) == 0
    assert torch.equal(weights, probs)


def test_the_threshold_itself_is_not_enough():
    sam_probs = torch.tensor([[0.0, 0.5, 0.5]])
    _, kept = openseg_ensemble(torch.rand(2, 3), sam_probs, SEEN, epsilon=0.2, score_threshold=0.5)
    assert len(kept) == 0


def test_without_sam_masks_the_plain_scores_remain():
    probs = torch.rand(2, 3)
    weights, kept = openseg_ensemble(probs, torch.zeros(0, 3), SEEN, epsilon=0.2, score_threshold=0.5)
    assert torch.equal(weights, probs)
    assert kept.shape == (0,)


def test_without_unseen_classes_sam_has_no_vote():
    probs, seen = torch.rand(2, 3), torch.ones(3, dtype=torch.bool)
    weights, kept = openseg_ensemble(probs, torch.rand(4, 3), seen, epsilon=0.2, score_threshold=0.0)
    assert torch.equal(weights, probs)
    assert len(kept) == 0


def test_epsilon_zero_and_one_are_the_two_extremes():
    probs, sam_probs = torch.rand(2, 3), torch.tensor([[0.1, 0.8, 0.1]])
    none, _ = openseg_ensemble(probs, sam_probs, SEEN, epsilon=0.0, score_threshold=0.5)
    torch.testing.assert_close(none, torch.cat([probs, torch.zeros(1, 3)]))
    full, _ = openseg_ensemble(probs, sam_probs, SEEN, epsilon=1.0, score_threshold=0.5)
    torch.testing.assert_close(full[:2], probs * torch.tensor([1.0, 0.0, 0.0]))
    torch.testing.assert_close(full[2:], torch.tensor([[0.0, 0.8, 0.1]]))
