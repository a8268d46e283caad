# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Losses of what CLIP says of masks, where part of it is trained (OVRCOAT, MAFT+, Mask-Adapter)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from cmpf.common.tensors import resize_bilinear
from cmpf.types import Targets

SCALES = (1, 2, 4)  # regions of the representation loss along one side of the map


def clip_class_loss(logits_MK: Tensor, labels_M: Tensor, *, double_softmax: bool) -> Tensor:
    """Cross-entropy of CLIP's names of matched masks, summed over them (OVRCOAT, arXiv 2603.21386).

    Args:
        logits_MK: CLIP's logits without void. labels_M: true classes.
        double_softmax: take the softmax of probabilities, as the published code does; this loss is never below
            log(1 + (K - 1) / e), and its gradients are weak.
    Returns:
        (), 0 without masks.
    """
    scores = logits_MK.softmax(dim=-1) if double_softmax else logits_MK
    return F.cross_entropy(scores, labels_M, reduction="sum")


def mask_aware_loss(logits_BQK: Tensor, masks_BQhw: Tensor, targets: Sequence[Targets]) -> Tensor:
    """CLIP's score of a true class should be high where a mask overlaps with the object (MAFT+, mask-aware loss).

    For each true mask g of class c: smooth-L1 of P_q = softmax(logits)_qc and of the soft IoU of mask q and g, the
    latter scaled over the queries to 0..1 and without gradient.

    Args:
        logits_BQK: CLIP's logits without void. masks_BQhw: mask logits of any size.
        targets: one per image, masks at one scale with masks_BQhw.
    Returns:
        (), the sum over true masks of the mean over queries.
    """
    total = logits_BQK.sum() * 0.0  # with a gradient, also where no image has an object
    for logits_QK, masks_Qhw, target in zip(logits_BQK, masks_BQhw, targets, strict=True):
        if len(target["labels"]) == 0:
            continue
        scores_QN = logits_QK.softmax(dim=-1)[:, target["labels"]]
        overlap_QN = soft_iou(masks_Qhw, target["masks"])
        low, high = overlap_QN.aminmax(dim=0)
        overlap_QN = (overlap_QN - low) / (high - low + 1e-8)
        total = total + F.smooth_l1_loss(scores_QN, overlap_QN, reduction="none").mean(dim=0).sum()
    return total


@torch.no_grad()
def soft_iou(masks_Qhw: Tensor, truth_NHW: Tensor) -> Tensor:
    """(Q, N) overlap of sigmoid(masks), resized bilinearly to the true ones, with these: products as intersections."""
    size = (truth_NHW.shape[-2], truth_NHW.shape[-1])
    m_QP = resize_bilinear(masks_Qhw.float().sigmoid()[None], size)[0].flatten(1)
    g_NP = truth_NHW.to(m_QP.dtype).flatten(1)
    both_QN = m_QP @ g_NP.T
    return both_QN / (g_NP.sum(dim=1) + m_QP.sum(dim=1, keepdim=True) - both_QN + 1e-7)


def representation_loss(student_BChw: Tensor, teacher_BChw: Tensor) -> Tensor:
    """What a trained trunk should keep of the CLIP it started as: its map, pooled at several scales (MAFT+).

    Of the positive part of the map, made square: for 1, 2 and 4 regions per side their means, of which the sums of all
    columns and of all rows are compared; smooth-L1.

    Returns:
        (), the sum over images of the mean over all these numbers.
    """
    student, teacher = _pooled(student_BChw.float()), _pooled(teacher_BChw.float())
    return F.smooth_l1_loss(student, teacher, reduction="none").mean(dim=1).sum()


def _pooled(map_BChw: Tensor) -> Tensor:
    h, w = map_BChw.shape[-2:]
    x = resize_bilinear(map_BChw.relu(), (max(h, w), max(h, w)))
    found = []
    for scale in SCALES:
        means = F.avg_pool2d(x, max(1, w // scale))  # of the width before it was made square, as published
        found += [means.sum(dim=2).flatten(1), means.sum(dim=3).flatten(1)]
    return torch.cat(found, dim=1)


def consistency_loss(predicted_NE: Tensor, truth_NE: Tensor) -> Tensor:
    """1 - cosine of embeddings of predicted masks and of the true ones that they match, summed (Mask-Adapter)."""
    return (1.0 - F.cosine_similarity(predicted_NE, truth_NE, dim=-1)).sum()
