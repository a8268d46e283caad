# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""OpenSeg Ensemble: SAM's own masks, named by CLIP, vote for unseen classes (paper: OpenSeg Ensemble)."""

from __future__ import annotations

import torch
from torch import Tensor


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
