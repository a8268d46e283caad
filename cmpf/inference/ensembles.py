# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Class ensemble of the decoder and CLIP (FC-CLIP, Sec. 3.3) and mask ensemble of the decoder's and SAM's masks
(paper: OpenSeg Ensemble).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cmpf.common.tensors import resize_bilinear

SAME_OBJECT_IOU = 0.5  # above it a decoder mask and a candidate show the same object


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
    """Fuses the class distributions of the decoder and CLIP by their weighted geometric mean.

    Args:
        decoder_logits_BQK1: the decoder's class logits, last column void.
        clip_logits_BQK: CLIP's class logits of the masks.
        seen_K: bool, classes of the training vocabulary.
        alpha, beta: CLIP's weight, 0..1, for seen and for unseen classes.
        valid_BQ: bool, masks that CLIP can embed; the others use the decoder's distribution alone. None = all.
        objectness: factor, 0..1, by which CLIP's largest probability lowers void (arXiv 2603.21386); 0 = as published.
    Returns:
        (B, Q, K + 1) logarithm of the distribution (+ 1e-8), last column void.
    """
    clip = clip_logits_BQK.log_softmax(dim=-1)
    weight = torch.where(seen_K, alpha, beta).to(clip.dtype).expand_as(clip)
    certainty = clip.exp().amax(dim=-1, keepdim=True)
    if valid_BQ is not None:
        weight = weight * valid_BQ[..., None]
        certainty = torch.where(valid_BQ[..., None], certainty, 0.0)
    # CLIP's logits of an invalid mask may not be finite, and 0 * inf would be NaN.
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
    """Class weights of the decoder's and SAM's masks in one semantic sum (paper: OpenSeg Ensemble).

    The sum over masks of weight[mask, c] * sigmoid(mask) equals the decoder's sum s(c) for a seen class c, and
    (1 - alpha) * s(c) + alpha * (SAM's sum) for an unseen one. If SAM has masks but none exceeds the threshold, the
    factor 1 - alpha still applies, as in the published code.

    Args:
        class_probs_QK: class probabilities of the decoder's masks, without void.
        sam_probs_MK: CLIP's class probabilities of SAM's masks, without void.
        seen_K: bool, classes of the training vocabulary; SAM's masks do not contribute to them.
        alpha: weight of SAM's masks, 0..1.
        score_threshold: SAM masks whose best unseen probability is not above this are dropped.
    Returns:
        Weights (Q + M', K) and the indices (M',) of the kept SAM masks. Without any SAM mask (M = 0) the weights are
        the decoder's probabilities.
    """
    if len(sam_probs_MK) == 0:
        return class_probs_QK, torch.zeros(0, dtype=torch.long, device=class_probs_QK.device)
    unseen_probs = sam_probs_MK * ~seen_K
    kept = (unseen_probs > score_threshold).any(dim=-1).nonzero()[:, 0]
    decoder_weight = torch.where(seen_K, 1.0, 1.0 - alpha).to(class_probs_QK.dtype)
    return torch.cat([class_probs_QK * decoder_weight, alpha * unseen_probs[kept]]), kept


@dataclass(frozen=True)
class Candidates:
    """Candidate masks for segments and instances: the decoder's, then SAM's.

    mask_cls: (Q' + M', K + 1) log class distributions, last column void.
    decoder, sam: (Q',), (M',) indices of the kept masks.
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
    """Adds SAM's masks of unseen classes to the decoder's masks.

    The decoder was trained on seen classes and often has no mask for an object of an unseen class. SAM's masks are
    used for unseen classes only: as candidates for seen classes they lower the results (ShapeWorld).

    Args:
        mask_cls_QK1: log class distributions of the decoder's masks, last column void.
        decoder_masks_Qhw, sam_masks_Mhw: mask logits over the same padded image; their resolutions may differ.
        sam_probs_MK1: CLIP's class probabilities of SAM's masks, last column void.
        seen_K: bool, classes of the training vocabulary.
        score_threshold: SAM masks whose best unseen probability is not above this are dropped.
        decoder_share: weight, 0..1, of the decoder's distribution where one of its masks covers a candidate; the two
            distributions are fused by their geometric mean, as in the class ensemble. 0 = CLIP's distribution alone.
        max_overlap: IoU above which, of a candidate and another mask with the same best class, only the one with the
            higher probability is kept (SAM proposes nested masks at each point). 1 = off.
    """
    kept = ((sam_probs_MK1[:, :-1] * ~seen_K) > score_threshold).any(dim=-1).nonzero()[:, 0]
    decoder_index = torch.arange(len(mask_cls_QK1), device=kept.device)
    if len(kept) == 0:
        return Candidates(mask_cls_QK1, decoder_index, kept)
    num_decoder = len(mask_cls_QK1)
    size = (decoder_masks_Qhw.shape[1], decoder_masks_Qhw.shape[2])
    candidates = resize_bilinear(sam_masks_Mhw[kept][None].float(), size)[0]
    all_masks = torch.cat([decoder_masks_Qhw.float(), candidates]) > 0
    iou_MN = _pairwise_iou(candidates > 0, all_masks)
    best_iou, best_query = iou_MN[:, :num_decoder].max(dim=1)
    weight = torch.where(best_iou > SAME_OBJECT_IOU, decoder_share, 0.0)[:, None]
    clip_log_probs = torch.log(sam_probs_MK1[kept] + 1e-8).to(mask_cls_QK1)
    decoder_log_probs = torch.where(weight > 0, weight * mask_cls_QK1[best_query], 0.0)
    fused = ((1 - weight) * clip_log_probs + decoder_log_probs).log_softmax(dim=-1)
    mask_cls = torch.cat([mask_cls_QK1, fused])
    keep = _class_aware_nms(mask_cls, iou_MN > max_overlap)
    return Candidates(mask_cls[keep], decoder_index[keep[:num_decoder]], kept[keep[num_decoder:]])


def _pairwise_iou(masks_Mhw: Tensor, others_Nhw: Tensor) -> Tensor:
    """IoU (M, N) of binary masks."""
    masks, others = masks_Mhw.flatten(1).float(), others_Nhw.flatten(1).float()
    intersection = masks @ others.T
    return intersection / (masks.sum(dim=1)[:, None] + others.sum(dim=1) - intersection).clamp(min=1)


def _class_aware_nms(mask_cls_NK1: Tensor, overlaps_MN: Tensor) -> Tensor:
    """Greedy suppression of overlapping masks of the same class, where at least one of the two is a candidate.

    Args:
        mask_cls_NK1: log class distributions; the last M belong to candidates.
        overlaps_MN: bool, whether a candidate and a mask overlap too much.
    Returns:
        (N,) bool, masks to keep.
    """
    scores, labels = mask_cls_NK1[:, :-1].max(dim=-1)
    first = len(labels) - len(overlaps_MN)
    conflicts = torch.zeros(len(labels), len(labels), dtype=torch.bool)
    conflicts[first:] = (overlaps_MN & (labels[first:, None] == labels)).cpu()
    conflicts |= conflicts.T.clone()
    keep = torch.zeros(len(labels), dtype=torch.bool)
    for index in scores.argsort(descending=True, stable=True).tolist():
        keep[index] = not (conflicts[index] & keep).any()
    return keep.to(labels.device)
