# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The geometric ensemble of decoder and CLIP."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cmpf.inference import geometric_ensemble

SEEN = torch.tensor([True, False, True, False])


def logits(seed: int = 0, spread: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    decoder = torch.randn(2, 5, 5, generator=generator) * spread
    return decoder, torch.randn(2, 5, 4, generator=generator) * spread


def naive(
    decoder: list[float], clip: list[float], seen: list[bool], alpha: float, beta: float
) -> list[float]:
    """One mask, straight from the formulas, in ordinary probabilities."""

    def softmax(values: list[float]) -> list[float]:
        powers = [math.exp(value) for value in values]
        return [power / sum(powers) for power in powers]

    inside, out, void = softmax(decoder[:-1]), softmax(clip), softmax(decoder)[-1]
    fused = []
    for i, o, s in zip(inside, out, seen, strict=True):
        a = alpha if s else beta
        fused.append(i ** (1 - a) * o**a)
    return [math.log(p / sum(fused) * (1 - void) + 1e-8) for p in fused] + [math.log(void + 1e-8)]


def test_every_mask_agrees_with_the_formula_worked_by_itself():
    decoder, clip = logits()
    got = geometric_ensemble(decoder, clip, SEEN, alpha=0.4, beta=0.8, valid_BQ=None, objectness=0.0)
    for b in range(2):
        for q in range(5):
            wanted = naive(decoder[b, q].tolist(), clip[b, q].tolist(), SEEN.tolist(), 0.4, 0.8)
            assert got[b, q].tolist() == pytest.approx(wanted, abs=1e-4)


def test_alpha_and_beta_zero_leave_the_decoder_scores():
    decoder, clip = logits()
    got = geometric_ensemble(decoder, clip, SEEN, alpha=0.0, beta=0.0, valid_BQ=None, objectness=0.0)
    torch.testing.assert_close(got, torch.log(decoder.softmax(-1) + 1e-8))


def test_alpha_and_beta_one_leave_clips_opinion_of_what_is_not_void():
    decoder, clip = logits()
    got = geometric_ensemble(decoder, clip, SEEN, alpha=1.0, beta=1.0, valid_BQ=None, objectness=0.0).exp()
    torch.testing.assert_close(got[..., :-1] / got[..., :-1].sum(-1, keepdim=True), clip.softmax(-1))
    torch.testing.assert_close(got[..., -1], decoder.softmax(-1)[..., -1])


@pytest.mark.parametrize("objectness", [0.0, 0.7])
def test_the_result_is_a_distribution(objectness):
    decoder, clip = logits()
    got = geometric_ensemble(decoder, clip, SEEN, alpha=0.4, beta=0.8, valid_BQ=None, objectness=objectness)
    torch.testing.assert_close(got.exp().sum(-1), torch.ones(2, 5), atol=1e-6, rtol=0)


def test_powers_that_would_underflow_keep_their_order():
    # p = exp(-200) underflows in float32; its logarithm does not.
    decoder = torch.tensor([[[200.0, 0.0, -10.0, -500.0]]])
    clip = torch.tensor([[[-300.0, 0.0, -10.0]]])
    seen = torch.zeros(3, dtype=torch.bool)
    got = geometric_ensemble(decoder, clip, seen, alpha=0.4, beta=0.8, valid_BQ=None, objectness=0.0)
    assert got.isfinite().all()
    # log p = 0.2 * (0, -200, -210) + 0.8 * (-300, 0, -10) = (-240, -40, -50): class 1 wins by 10 nats.
    assert got[0, 0].tolist()[:3] == pytest.approx([math.log(1e-8), math.log(1 - 4.54e-5), -10.0], abs=1e-3)


def test_masks_that_clip_cannot_see_keep_the_decoder_scores_even_where_clip_gave_nan():
    decoder, clip = logits()
    clip[0, 1] = float("nan")
    valid = torch.ones(2, 5, dtype=torch.bool)
    valid[0, 1] = False
    got = geometric_ensemble(decoder, clip, SEEN, alpha=0.4, beta=0.8, valid_BQ=valid, objectness=0.5)
    torch.testing.assert_close(got[0, 1], torch.log(decoder[0, 1].softmax(-1) + 1e-8))
    plain = geometric_ensemble(decoder, clip, SEEN, alpha=0.4, beta=0.8, valid_BQ=None, objectness=0.5)
    torch.testing.assert_close(got[valid], plain[valid])


def test_alpha_zero_does_not_let_an_impossible_class_of_clip_through_as_nan():
    decoder, clip = logits()
    clip[..., 0] = float("-inf")  # class 0 is seen: weight 0 times log 0
    got = geometric_ensemble(decoder, clip, SEEN, alpha=0.0, beta=0.8, valid_BQ=None, objectness=0.0)
    assert got.isfinite().all()


def test_objectness_lowers_void_by_clips_certainty():
    # CLIP is sure: max = 0.9. Void of the decoder: 0.5. lambda = 0.5: v = 0.5 * (1 - 0.5 * 0.9) = 0.275.
    decoder = torch.tensor([[[0.0, 0.0, math.log(2.0)]]])
    clip = torch.tensor([[[math.log(0.9), math.log(0.1)]]])
    seen = torch.tensor([True, True])
    got = geometric_ensemble(decoder, clip, seen, alpha=0.0, beta=0.0, valid_BQ=None, objectness=0.5).exp()
    assert got[0, 0].tolist() == pytest.approx([0.3625, 0.3625, 0.275], abs=1e-5)


def test_the_order_of_masks_and_images_does_not_matter():
    decoder, clip = logits()
    order = torch.tensor([3, 0, 4, 1, 2])
    whole = geometric_ensemble(decoder, clip, SEEN, alpha=0.4, beta=0.8, valid_BQ=None, objectness=0.3)
    moved = geometric_ensemble(
        decoder[:, order], clip[:, order], SEEN, alpha=0.4, beta=0.8, valid_BQ=None, objectness=0.3
    )
    torch.testing.assert_close(whole[:, order], moved)
