# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Class ensemble: decoder and CLIP on what a mask shows (FC-CLIP, Sec. 3.3). Mask ensemble: SAM's own masks, named by
CLIP, vote for unseen classes (paper: OpenSeg Ensemble), or are candidates for them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cmpf.common.tensors import resize_bilinear

COVERED = 0.5  # IoU at which two masks show the same thing


def geometric_ensemble(
    decoder_logits_BQK1: Tensor,
    clip_logits_BQK: Tensor,
    seen_K: Tensor,
    *,
    alpha: float,
    beta: float,
    valid_BQ: Tensor | None,
    objectness: float,
) -> Tensor:
    """Class distribution of each mask.

    Args:
        decoder_logits_BQK1: the decoder's class logits, last column void.
        clip_logits_BQK: CLIP's logits of the pooled masks.
        seen_K: bool, classes that training named.
        alpha, beta: CLIP's weight, 0..1, for seen and for unseen classes.
        valid_BQ: bool, masks that CLIP could see at all; the others keep the decoder's opinion. None = all.
        objectness: share, 0..1, by which CLIP's certainty lowers void (arXiv 2603.21386); 0 = as published.
    Returns:
        (B, Q, K + 1) logarithm of the distribution (+ 1e-8), last column void.
    """
    clip = clip_logits_BQK.log_softmax(dim=-1)
    weight = torch.where(seen_K, alpha, beta).to(clip.dtype).expand_as(clip)
    certainty = clip.exp().amax(dim=-1, keepdim=True)
    if valid_BQ is not None:
        weight = weight * valid_BQ[..., None]
        certainty = torch.where(valid_BQ[..., None], certainty, 0.0)
    # Left out where its weight is 0: 0 times the logarithm of an undefined value is no number.
    decoder = decoder_logits_BQK1[..., :-1].log_softmax(dim=-1)
    fused = (1 - weight) * decoder + torch.where(weight > 0, weight * clip, 0.0)
    void = decoder_logits_BQK1.softmax(dim=-1)[..., -1:] * (1 - objectness * certainty)
    return torch.log(torch.cat([fused.softmax(dim=-1) * (1 - void), void], dim=-1) + 1e-8)


def openseg_ensemble(
    class_probs_QK: Tensor,
    sam_probs_MK: Tensor,
    seen_K: Tensor,
    *,
    alpha: float,
    score_threshold: float,
) -> tuple[Tensor, Tensor]:
    """Weights of decoder masks and SAM masks in one semantic sum.

    scores(c) = sum over masks of weight[mask, c] * sigmoid(mask) is then, with s(c) the decoder's own sum,
    s(c) for seen c and (1 - alpha) * s(c) + alpha * (SAM's sum) for unseen c. Where SAM found masks and none is
    kept, SAM's sum is empty and the factor remains, as in the published code; scores of images with such masks and
    of images with kept ones are then on one scale.

    Args:
        class_probs_QK: class probabilities of the decoder's masks, without void.
        sam_probs_MK: CLIP's class probabilities of SAM's masks, without void.
        seen_K: bool, classes that training named; SAM has no vote on them.
        alpha: SAM's share, 0..1.
        score_threshold: SAM masks whose best unseen probability is not above this have no vote.
    Returns:
        Weights (Q + M', K), and the indices (M',) of the SAM masks kept. An image without any SAM mask, M = 0, has
        the plain probabilities.
    """
    if len(sam_probs_MK) == 0:
        return class_probs_QK, torch.zeros(0, dtype=torch.long, device=class_probs_QK.device)
    unseen_probs = sam_probs_MK * ~seen_K
    kept = (unseen_probs > score_threshold).any(dim=-1).nonzero()[:, 0]
    own_share = torch.where(seen_K, 1.0, 1.0 - alpha).to(class_probs_QK.dtype)
    return torch.cat([class_probs_QK * own_share, alpha * unseen_probs[kept]]), kept


@dataclass(frozen=True)
class Candidates:
    """Masks that compete for segments and instances: the decoder's, then SAM's.

    mask_cls: (Q' + M', K + 1) log class distributions, last column void.
    decoder, sam: (Q',), (M',) indices of the masks that stayed.
    """

    mask_cls: Tensor
    decoder: Tensor
    sam: Tensor


def join_candidates(
    mask_cls_QK1: Tensor,
    decoder_masks_Qhw: Tensor,
    sam_probs_MK1: Tensor,
    sam_masks_Mhw: Tensor,
    seen_K: Tensor,
    *,
    score_threshold: float,
    decoder_share: float,
    max_overlap: float,
) -> Candidates:
    """SAM's masks beside the decoder's, for classes that the decoder never learned.

    The decoder was trained on seen classes, so that objects of unseen ones often have no mask of its own. SAM's masks
    stand in for those only: as candidates for seen classes they lower the results (ShapeWorld).

    Args:
        mask_cls_QK1: log class distributions of the decoder's masks, last column void.
        decoder_masks_Qhw, sam_masks_Mhw: mask logits over the same padded image, at any two resolutions.
        sam_probs_MK1: CLIP's class probabilities of SAM's masks, last column void.
        seen_K: bool, classes that training named.
        score_threshold: SAM masks whose best unseen probability is not above this are no candidates.
        decoder_share: weight, 0..1, of the decoder's distribution where one of its masks covers a candidate; the two
            are fused as in the class ensemble, by their geometric mean. 0 = CLIP alone names candidates.
        max_overlap: of a candidate and another mask of the same best class with a larger IoU the surer one stays
            (SAM proposes nested masks at each point). 1 = all stay.
    """
    kept = ((sam_probs_MK1[:, :-1] * ~seen_K) > score_threshold).any(dim=-1).nonzero()[:, 0]
    everything = torch.arange(len(mask_cls_QK1), device=kept.device)
    if len(kept) == 0:
        return Candidates(mask_cls_QK1, everything, kept)
    size = (decoder_masks_Qhw.shape[1], decoder_masks_Qhw.shape[2])
    candidates = resize_bilinear(sam_masks_Mhw[kept][None].float(), size)[0]
    everyone = torch.cat([decoder_masks_Qhw.float(), candidates]) > 0
    overlap, own = _overlaps(candidates > 0, everyone), len(mask_cls_QK1)
    share, partner = overlap[:, :own].max(dim=1)
    weight = torch.where(share > COVERED, decoder_share, 0.0)[:, None]
    named = torch.log(sam_probs_MK1[kept] + 1e-8).to(mask_cls_QK1)
    theirs = torch.where(weight > 0, weight * mask_cls_QK1[partner], 0.0)
    named = ((1 - weight) * named + theirs).log_softmax(dim=-1)
    mask_cls = torch.cat([mask_cls_QK1, named])
    stay = _surest(mask_cls, overlap > max_overlap)
    return Candidates(mask_cls[stay], everything[stay[:own]], kept[stay[own:]])


def _overlaps(masks_Nhw: Tensor, others_Phw: Tensor) -> Tensor:
    """IoU (N, P) of every mask with every other."""
    masks, others = masks_Nhw.flatten(1).float(), others_Phw.flatten(1).float()
    common = masks @ others.T
    return common / (masks.sum(dim=1)[:, None] + others.sum(dim=1) - common).clamp(min=1)


def _surest(mask_cls_NK1: Tensor, overlaps_MN: Tensor) -> Tensor:
    """Which masks (N,) bool have no surer rival that stayed.

    Args:
        mask_cls_NK1: the last M of them are candidates.
        overlaps_MN: bool, candidates by masks that show the same; rivals if they are of one class, too.
    """
    scores, labels = mask_cls_NK1[:, :-1].max(dim=-1)
    first = len(labels) - len(overlaps_MN)
    rivals = torch.zeros(len(labels), len(labels), dtype=torch.bool)
    rivals[first:] = (overlaps_MN & (labels[first:, None] == labels)).cpu()
    rivals |= rivals.T.clone()
    stay = torch.zeros(len(labels), dtype=torch.bool)
    for index in scores.argsort(descending=True, stable=True).tolist():
        stay[index] = not (rivals[index] & stay).any()
    return stay.to(labels.device)
