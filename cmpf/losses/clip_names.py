# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Losses of CLIP's mask classification: MAFT+ and Mask-Adapter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmpf.common.tensors import resize_bilinear
from cmpf.losses.criterion import Normalizers, normalizers
from cmpf.types import Targets

SCALES = (1, 2, 4)  # pooling regions per side of the feature map in the representation loss


def mask_aware_loss(logits_BQK: Tensor, masks_BQhw: Tensor, targets: Sequence[Targets]) -> Tensor:
    """Aligns CLIP's class probabilities of masks with the masks' IoU (MAFT+, mask-aware loss).

    For each target mask g of class c: smooth-L1 loss between P_q = softmax(logits)_qc and the soft IoU of mask q and g.
    The IoU is scaled over the queries to 0..1 and gets no gradient.

    Args:
        logits_BQK: CLIP's logits without void.
        masks_BQhw: mask logits of any size.
        targets: one per image, masks over the same padded image.
    Returns:
        (), the sum over target masks of the mean over queries.
    """
    total = logits_BQK.sum() * 0.0  # zero with a gradient, for batches without any object
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
    """Soft IoU (Q, N) of sigmoid(masks), resized bilinearly to the targets, and target masks."""
    size = (truth_NHW.shape[-2], truth_NHW.shape[-1])
    m_QP = resize_bilinear(masks_Qhw.float().sigmoid()[None], size)[0].flatten(1)
    g_NP = truth_NHW.to(m_QP.dtype).flatten(1)
    intersection_QN = m_QP @ g_NP.T
    return intersection_QN / (g_NP.sum(dim=1) + m_QP.sum(dim=1, keepdim=True) - intersection_QN + 1e-7)


def representation_loss(student_BChw: Tensor, teacher_BChw: Tensor) -> Tensor:
    """Keeps the features of a trained trunk close to those of the original CLIP at several scales (MAFT+).

    The positive part of the feature map is resized to a square and average-pooled to 1, 2 and 4 regions per side;
    smooth-L1 loss of the sums over columns and over rows.

    Returns:
        (), the sum over images of the mean over all elements.
    """
    student, teacher = _pooled(student_BChw.float()), _pooled(teacher_BChw.float())
    return F.smooth_l1_loss(student, teacher, reduction="none").mean(dim=1).sum()


def _pooled(map_BChw: Tensor) -> Tensor:
    h, w = map_BChw.shape[-2:]
    x = resize_bilinear(map_BChw.relu(), (max(h, w), max(h, w)))
    sums = []
    for scale in SCALES:
        means = F.avg_pool2d(x, max(1, w // scale))  # w, not max(h, w), as in the published code
        sums += [means.sum(dim=2).flatten(1), means.sum(dim=3).flatten(1)]
    return torch.cat(sums, dim=1)


def consistency_loss(predicted_NE: Tensor, target_NE: Tensor) -> Tensor:
    """Sum of 1 - cosine of the embeddings of predicted masks and of the matching target masks (Mask-Adapter)."""
    return (1.0 - F.cosine_similarity(predicted_NE, target_NE, dim=-1)).sum()


MAX_TARGETS = 32  # target masks per image in stage 1
# Per image in stage 2: target masks, and pairs of a predicted and a target mask.
MIXED_TARGETS, MIXED_PAIRS = 16, 8
MIN_PAIR_IOU, IOU_MASK_THRESHOLD, MASK_THRESHOLD = 0.7, 0.4, 0.5
IGNORED = -1


@dataclass(frozen=True)
class Examples:
    """Training masks of Mask-Adapter.

    masks: (B, N, H, W) float, 0 or 1.
    labels: (B, N), -1 = padding.
    pairs: number of pairs per image; the last 2 * `pairs` masks are the predicted masks of the pairs, then the target
        masks in the same order.
    """

    masks: Tensor
    labels: Tensor
    pairs: int


def target_examples(targets: Sequence[Targets]) -> Examples:
    """Stage 1: up to 32 randomly selected target masks per image."""
    sampled = [_sample_targets(target, MAX_TARGETS) for target in targets]
    count = max(1, *(len(labels) for _, labels in sampled))
    masks, labels = zip(*(_pad(masks, labels, count) for masks, labels in sampled), strict=True)
    return Examples(torch.stack(masks), torch.stack(labels), pairs=0)


@torch.no_grad()
def mixed_examples(masks_BQhw: Tensor, targets: Sequence[Targets]) -> Examples:
    """Stage 2: up to 16 target masks per image, and up to 8 pairs of a predicted mask and the target mask it matches.

    Args:
        masks_BQhw: mask logits of the decoder; all masks of the result have their size.
        targets: one per image, over the same padded image.
    """
    image_masks, image_labels = [], []
    for masks_Qhw, target in zip(masks_BQhw, targets, strict=True):
        size = (masks_Qhw.shape[-2], masks_Qhw.shape[-1])
        target_masks = resize_bilinear(target["masks"].float()[None], size)[0] >= MASK_THRESHOLD
        resized: Targets = {"masks": target_masks, "labels": target["labels"]}
        groups = [_pad(*_sample_targets(resized, MIXED_TARGETS), MIXED_TARGETS)]
        queries, matched = _sample_pairs(masks_Qhw, target_masks)
        predicted = (masks_Qhw.sigmoid() > MASK_THRESHOLD)[queries]
        for masks in (predicted, target_masks[matched]):
            groups.append(_pad(masks, target["labels"][matched], MIXED_PAIRS))
        image_masks.append(torch.cat([masks for masks, _ in groups]))
        image_labels.append(torch.cat([labels for _, labels in groups]))
    return Examples(torch.stack(image_masks), torch.stack(image_labels), pairs=MIXED_PAIRS)


def _sample_targets(target: Targets, count: int) -> tuple[Tensor, Tensor]:
    order = torch.randperm(len(target["labels"]), device=target["labels"].device)[:count]
    return target["masks"][order], target["labels"][order]


def _pad(masks_NHW: Tensor, labels_N: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Converts masks to float and pads masks and labels to a count."""
    missing = count - len(labels_N)
    return F.pad(masks_NHW.float(), (0, 0, 0, 0, 0, missing)), F.pad(labels_N, (0, missing), value=IGNORED)


def _sample_pairs(masks_Qhw: Tensor, targets_Nhw: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of the query and the target mask of up to 8 random pairs with sufficient IoU, one pair per target."""
    predicted = (masks_Qhw.sigmoid() >= IOU_MASK_THRESHOLD).float().flatten(1)
    targets = targets_Nhw.float().flatten(1)
    intersection = predicted @ targets.T
    union = predicted.sum(dim=1, keepdim=True) + targets.sum(dim=1) - intersection
    iou_QN = intersection / union.clamp(min=1.0)
    random_QN = torch.rand_like(iou_QN) * (iou_QN > MIN_PAIR_IOU)
    best, query = (
        random_QN.max(dim=0) if len(targets) else (random_QN.new_zeros(0), torch.zeros(0, dtype=torch.int64))
    )
    matched = (best > 0).nonzero()[:, 0]
    matched = matched[torch.randperm(len(matched), device=matched.device)][:MIXED_PAIRS]
    return query.to(matched.device)[matched], matched


class AdapterCriterion(nn.Module):
    """Losses of both training stages of Mask-Adapter.

    Args:
        mixed: stage 2 instead of stage 1.
        class_weight, consistency_weight: weights of the losses.
        detach_truth: whether embeddings of target masks get no gradient from the consistency loss.
    """

    def __init__(
        self, *, mixed: bool, class_weight: float, consistency_weight: float, detach_truth: bool
    ) -> None:
        super().__init__()
        self.mixed = mixed
        self.class_weight, self.consistency_weight = class_weight, consistency_weight
        self.detach_truth = detach_truth

    def normalizers(self, targets: Sequence[Targets], *, queries: int, device: torch.device) -> Normalizers:
        """Same interface as SetCriterion.normalizers; only `images` is used."""
        return normalizers(targets, queries=queries, no_object_weight=1.0, device=device)

    def examples(self, targets: Sequence[Targets], masks_BQhw: Tensor | None) -> Examples:
        """Samples the training masks.

        Args:
            targets: one per image.
            masks_BQhw: the decoder's mask logits in stage 2; None in stage 1.
        """
        return target_examples(targets) if masks_BQhw is None else mixed_examples(masks_BQhw, targets)

    def forward(
        self, logits_BNK1: Tensor, embeddings_BNE: Tensor, examples: Examples, normalizers: Normalizers
    ) -> dict[str, Tensor]:
        """
        Args:
            logits_BNK1: CLIP's logits of the examples, last column void.
            embeddings_BNE: their embeddings.
        Returns:
            loss_ce, the mean over masks with a label; in stage 2 also loss_consistency, the mean over 8 pairs per image
            with zeros for missing pairs.
        """
        images = len(logits_BNK1)
        num_labeled = (examples.labels != IGNORED).sum().clamp(min=1)
        ce = F.cross_entropy(
            logits_BNK1.flatten(0, 1), examples.labels.flatten(), ignore_index=IGNORED, reduction="sum"
        )
        losses = {"loss_ce": self.class_weight * ce / num_labeled * images / normalizers.images}
        if examples.pairs:
            predicted, target = embeddings_BNE[:, -2 * examples.pairs :].chunk(2, dim=1)
            valid = examples.labels[:, -examples.pairs :] != IGNORED
            target = target.detach() if self.detach_truth else target
            consistency = consistency_loss(predicted[valid], target[valid])
            losses["loss_consistency"] = (
                self.consistency_weight * consistency / examples.pairs / normalizers.images
            )
        return losses
