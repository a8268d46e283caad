# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Losses of what CLIP says of masks, where part of it is trained (OVRCOAT, MAFT+, Mask-Adapter)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmpf.common.tensors import resize_bilinear
from cmpf.losses.criterion import Normalizers, normalizers
from cmpf.types import Targets

SCALES = (1, 2, 4)  # regions of the representation loss along one side of the map


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


TRUE_MASKS = 32  # of an image, in stage 1
MIXED_TRUE_MASKS, MIXED_PAIRS = 16, 8  # in stage 2: true masks, and pairs of a predicted and a true one
LEAST_IOU, INSIDE_FOR_IOU, INSIDE = 0.7, 0.4, 0.5
IGNORED = -1


@dataclass(frozen=True)
class Examples:
    """Masks of a batch that CLIP is to name. inside: (B, N, H, W) float of 0 and 1; labels: (B, N), -1 = no mask.
    pairs: the last two times `pairs` masks are predicted ones and the true ones that they match, in the same order.
    """

    inside: Tensor
    labels: Tensor
    pairs: int


def true_examples(targets: Sequence[Targets]) -> Examples:
    """Stage 1: up to 32 true masks of each image, a random choice where there are more."""
    chosen = [_choose(target, TRUE_MASKS) for target in targets]
    count = max(1, *(len(labels) for _, labels in chosen))
    inside, labels = zip(*(_filled(masks, labels, count) for masks, labels in chosen), strict=True)
    return Examples(torch.stack(inside), torch.stack(labels), pairs=0)


@torch.no_grad()
def mixed_examples(masks_BQhw: Tensor, targets: Sequence[Targets]) -> Examples:
    """Stage 2: 16 true masks of each image, and 8 predicted ones with the true ones that they cover well.

    Args:
        masks_BQhw: mask logits of the decoder; all masks of the result have their size.
        targets: one per image, over the same padded image.
    """
    inside, labels = [], []
    for masks_Qhw, target in zip(masks_BQhw, targets, strict=True):
        truth = _at(target["masks"], masks_Qhw.shape[-2:])
        found = [
            _filled(
                *_choose({"masks": truth, "labels": target["labels"]}, MIXED_TRUE_MASKS), MIXED_TRUE_MASKS
            )
        ]
        queries, covered = _pairs(masks_Qhw, truth)
        predicted = (masks_Qhw.sigmoid() > INSIDE)[queries]
        for masks in (predicted, truth[covered]):
            found.append(_filled(masks, target["labels"][covered], MIXED_PAIRS))
        inside.append(torch.cat([masks for masks, _ in found]))
        labels.append(torch.cat([of_masks for _, of_masks in found]))
    return Examples(torch.stack(inside), torch.stack(labels), pairs=MIXED_PAIRS)


def _choose(target: Targets, count: int) -> tuple[Tensor, Tensor]:
    order = torch.randperm(len(target["labels"]), device=target["labels"].device)[:count]
    return target["masks"][order], target["labels"][order]


def _filled(masks_NHW: Tensor, labels_N: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Masks as floats, and labels, with empty ones without a label up to the count."""
    lacking = count - len(labels_N)
    return F.pad(masks_NHW.float(), (0, 0, 0, 0, 0, lacking)), F.pad(labels_N, (0, lacking), value=IGNORED)


def _at(masks_NHW: Tensor, size: Sequence[int]) -> Tensor:
    return resize_bilinear(masks_NHW.float()[None], (size[0], size[1]))[0] >= INSIDE


def _pairs(masks_Qhw: Tensor, truth_Nhw: Tensor) -> tuple[Tensor, Tensor]:
    """Query and true mask of up to 8 pairs with enough overlap: a random query for each of the true masks, these in
    random order."""
    predicted = (masks_Qhw.sigmoid() >= INSIDE_FOR_IOU).float().flatten(1)
    truth = truth_Nhw.float().flatten(1)
    both = predicted @ truth.T
    iou_QN = both / (predicted.sum(dim=1, keepdim=True) + truth.sum(dim=1) - both).clamp(min=1.0)
    lots_QN = torch.rand_like(iou_QN) * (iou_QN > LEAST_IOU)
    best, query = (
        lots_QN.max(dim=0) if len(truth) else (lots_QN.new_zeros(0), torch.zeros(0, dtype=torch.int64))
    )
    covered = (best > 0).nonzero()[:, 0]
    covered = covered[torch.randperm(len(covered), device=covered.device)][:MIXED_PAIRS]
    return query.to(covered.device)[covered], covered


class AdapterCriterion(nn.Module):
    """Losses of Mask-Adapter, in both stages of its training.

    Args:
        mixed: stage 2. class_weight, consistency_weight: factors of the losses.
        detach_truth: an embedding of a true mask gets no gradient from the consistency loss.
    """

    def __init__(
        self, *, mixed: bool, class_weight: float, consistency_weight: float, detach_truth: bool
    ) -> None:
        super().__init__()
        self.mixed = mixed
        self.class_weight, self.consistency_weight = class_weight, consistency_weight
        self.detach_truth = detach_truth

    def normalizers(self, targets: Sequence[Targets], *, queries: int, device: torch.device) -> Normalizers:
        """As SetCriterion's; losses are means over a part of a batch, which counts by its images."""
        return normalizers(targets, queries=queries, no_object_weight=1.0, device=device)

    def examples(self, targets: Sequence[Targets], masks_BQhw: Tensor | None) -> Examples:
        """The masks to name.

        Args:
            targets: one per image.
            masks_BQhw: the decoder's mask logits, for stage 2.
        """
        return true_examples(targets) if masks_BQhw is None else mixed_examples(masks_BQhw, targets)

    def forward(
        self, logits_BNK1: Tensor, embeddings_BNE: Tensor, examples: Examples, normalizers: Normalizers
    ) -> dict[str, Tensor]:
        """
        Args:
            logits_BNK1: CLIP's logits of the examples, last column void.
            embeddings_BNE: their embeddings.
        Returns:
            loss_ce, the mean over masks with a label; in stage 2 also loss_consistency, a mean over 8 pairs per image,
            of which those that lack count as equal.
        """
        images = len(logits_BNK1)
        named = (examples.labels != IGNORED).sum().clamp(min=1)
        ce = F.cross_entropy(
            logits_BNK1.flatten(0, 1), examples.labels.flatten(), ignore_index=IGNORED, reduction="sum"
        )
        losses = {"loss_ce": self.class_weight * ce / named * images / normalizers.images}
        if examples.pairs:
            predicted, truth = embeddings_BNE[:, -2 * examples.pairs :].chunk(2, dim=1)
            there = examples.labels[:, -examples.pairs :] != IGNORED
            truth = truth.detach() if self.detach_truth else truth
            consistency = consistency_loss(predicted[there], truth[there])
            losses["loss_consistency"] = (
                self.consistency_weight * consistency / examples.pairs / normalizers.images
            )
        return losses
