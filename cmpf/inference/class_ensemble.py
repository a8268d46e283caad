# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Geometric ensemble of the decoder's and CLIP's opinions on what a mask shows (FC-CLIP, Sec. 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor


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
