# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The class ensemble and the mask ensemble."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.published.naive import inference as published
from cmpf.inference import geometric_ensemble, openseg_ensemble
from cmpf.inference.ensembles import Candidates, join_candidates

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


SEEN_CLASSES = torch.tensor([True, False, False])


def test_the_weighted_sum_over_all_masks_is_the_formula():
    torch.manual_seed(0)
    probs, masks = torch.rand(4, 3), torch.randn(4, 3, 5)
    sam_probs = torch.tensor([[0.9, 0.05, 0.05], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4], [0.2, 0.1, 0.7]])
    sam_masks = torch.randn(4, 3, 5)
    weights, kept = openseg_ensemble(probs, sam_probs, SEEN_CLASSES, alpha=0.2, score_threshold=0.5)
    assert kept.tolist() == [1, 3]
    assert weights.shape == (6, 3)
    scores = torch.einsum("qk,qhw->khw", weights, torch.cat([masks, sam_masks[kept]]).sigmoid())
    plain = torch.einsum("qk,qhw->khw", probs, masks.sigmoid())
    wanted = published.ensembled(
        plain, sam_probs, sam_masks, SEEN_CLASSES.tolist(), epsilon=0.2, threshold=0.5
    )
    torch.testing.assert_close(scores, wanted)


def test_a_mask_that_is_sure_of_a_seen_class_has_no_vote_and_unseen_classes_keep_the_factor():
    # s(c) = 0.6, 0.3, 0.1 of one mask; the seen class stays, the unseen ones are 0.8 * s(c) + 0.2 * (an empty sum).
    sam_probs = torch.tensor([[0.98, 0.01, 0.01]])
    probs = torch.tensor([[0.6, 0.3, 0.1]])
    weights, kept = openseg_ensemble(probs, sam_probs, SEEN_CLASSES, alpha=0.2, score_threshold=0.5)
    assert len(kept) == 0
    torch.testing.assert_close(weights, torch.tensor([[0.6, 0.24, 0.08]]))


def test_the_threshold_itself_is_not_enough():
    sam_probs = torch.tensor([[0.0, 0.5, 0.5]])
    _, kept = openseg_ensemble(torch.rand(2, 3), sam_probs, SEEN_CLASSES, alpha=0.2, score_threshold=0.5)
    assert len(kept) == 0


def test_without_sam_masks_the_plain_scores_remain():
    probs = torch.rand(2, 3)
    weights, kept = openseg_ensemble(probs, torch.zeros(0, 3), SEEN_CLASSES, alpha=0.2, score_threshold=0.5)
    assert torch.equal(weights, probs)
    assert kept.shape == (0,)


def test_without_unseen_classes_sam_has_no_vote():
    probs, seen = torch.rand(2, 3), torch.ones(3, dtype=torch.bool)
    weights, kept = openseg_ensemble(probs, torch.rand(4, 3), seen, alpha=0.2, score_threshold=0.0)
    assert torch.equal(weights, probs)
    assert len(kept) == 0


def test_epsilon_zero_and_one_are_the_two_extremes():
    probs, sam_probs = torch.rand(2, 3), torch.tensor([[0.1, 0.8, 0.1]])
    none, _ = openseg_ensemble(probs, sam_probs, SEEN_CLASSES, alpha=0.0, score_threshold=0.5)
    torch.testing.assert_close(none, torch.cat([probs, torch.zeros(1, 3)]))
    full, _ = openseg_ensemble(probs, sam_probs, SEEN_CLASSES, alpha=1.0, score_threshold=0.5)
    torch.testing.assert_close(full[:2], probs * torch.tensor([1.0, 0.0, 0.0]))
    torch.testing.assert_close(full[2:], torch.tensor([[0.0, 0.8, 0.1]]))


def join(mask_cls: Tensor, masks: Tensor, sam_probs: Tensor, sam_masks: Tensor, **changes: Any) -> Candidates:
    options: dict[str, Any] = {"score_threshold": 0.5, "decoder_share": 0.0, "max_overlap": 1.0, **changes}
    return join_candidates(
        mask_cls, masks, sam_probs, sam_masks, torch.tensor([True, False, False]), **options
    )


def columns(*ranges: tuple[int, int]) -> Tensor:
    """Masks of 4 x 8 cells, each over a range of columns."""
    masks = torch.full((len(ranges), 4, 8), -5.0)
    for mask, (first, last) in zip(masks, ranges, strict=True):
        mask[:, first:last] = 5.0
    return masks


DECODER = torch.tensor([[0.7, 0.1, 0.1, 0.1]]).log()


def test_only_masks_that_are_surely_of_an_unseen_class_are_candidates() -> None:
    # Sure of the seen class 0; not sure; exactly at the threshold; above it; nothing that CLIP could see.
    sam = torch.tensor(
        [[0.9, 0.0, 0.0, 0.1], [0.2, 0.4, 0.3, 0.1], [0.5, 0.5, 0, 0], [0.0, 0.3, 0.6, 0.1], [0.0] * 4]
    )
    found = join(DECODER, columns((0, 4)), sam, columns(*[(4, 8)] * 5))
    assert found.sam.tolist() == [3]
    assert found.decoder.tolist() == [0]
    torch.testing.assert_close(found.mask_cls[0], DECODER[0])
    torch.testing.assert_close(found.mask_cls[1].exp(), sam[3], atol=1e-6, rtol=1e-6)


def test_without_a_candidate_the_decoders_masks_are_the_same_tensor() -> None:
    found = join(DECODER, columns((0, 4)), torch.zeros(0, 4), torch.zeros(0, 4, 8))
    assert found.mask_cls is DECODER
    assert len(found.sam) == 0


def test_where_a_decoder_mask_covers_a_candidate_their_opinions_are_fused() -> None:
    sam = torch.tensor([[0.0625, 0.8, 0.0375, 0.1]])
    decoder = torch.cat([DECODER.flip(1), DECODER])
    masks = columns((6, 8), (0, 4))
    covered = join(decoder, masks, sam, columns((0, 5)), decoder_share=0.5)  # IoU 0 and 4 / 5
    apart = join(DECODER, masks[1:], sam, columns((2, 8)), decoder_share=0.5)  # IoU 2 / 8
    # sqrt(0.7 * 0.0625), sqrt(0.1 * 0.8), sqrt(0.1 * 0.0375), sqrt(0.1 * 0.1), brought to the sum 1
    roots = torch.tensor([0.20917, 0.28284, 0.06124, 0.1])
    torch.testing.assert_close(covered.mask_cls[2].exp(), roots / roots.sum(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(apart.mask_cls[1].exp(), sam[0], atol=1e-6, rtol=1e-6)


def test_of_two_masks_of_one_class_that_overlap_the_surer_stays() -> None:
    decoder = torch.tensor([[0.1, 0.85, 0.05, 0.0], [0.1, 0.8, 0.1, 0.0]]).log()
    sam = torch.tensor([[0.0, 0.9, 0.1, 0.0], [0.0, 0.6, 0.4, 0.0], [0.0, 0.05, 0.95, 0.0]])
    masks, sam_masks = columns((0, 6), (0, 5)), columns((0, 4), (0, 3), (0, 4))
    # Class 1, by certainty: SAM 0 (columns 0-4) > decoder 0 (0-6, IoU 4 / 6) > decoder 1 (0-5, 4 / 5) > SAM 1 (3 / 4).
    found = join(decoder, masks, sam, sam_masks, max_overlap=0.7)
    assert (found.decoder.tolist(), found.sam.tolist()) == ([0], [0, 2])
    everyone = join(decoder, masks, sam, sam_masks)
    assert (everyone.decoder.tolist(), everyone.sam.tolist()) == ([0, 1], [0, 1, 2])


def test_decoder_masks_are_no_rivals_of_each_other_nor_is_one_that_went_a_rival() -> None:
    decoder = torch.tensor([[0.1, 0.9, 0.0, 0.0], [0.1, 0.8, 0.1, 0.0]]).log()
    sam = torch.tensor([[0.0, 0.85, 0.15, 0.0], [0.0, 0.7, 0.3, 0.0]])
    # Decoder 0 beats SAM 0, which would have beaten SAM 1: that one overlaps neither decoder mask enough, and stays.
    found = join(decoder, columns((0, 4), (0, 4)), sam, columns((0, 6), (2, 8)), max_overlap=0.49)
    assert (found.decoder.tolist(), found.sam.tolist()) == ([0, 1], [1])


def test_masks_of_two_resolutions_are_compared_over_the_same_image() -> None:
    sam = torch.tensor([[0.0, 0.9, 0.1, 0.0]])
    decoder = torch.tensor([[0.1, 0.8, 0.1, 0.0]]).log()
    fine = torch.nn.functional.interpolate(columns((0, 4))[None], scale_factor=4.0)[0]
    assert join(decoder, columns((0, 4)), sam, fine, max_overlap=0.9).decoder.tolist() == []
