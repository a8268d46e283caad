# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Post-processing as published (MaskFormer, Mask2Former): everything at full size, with a loop over queries.

Where the formulation leaves a choice, the faster one is used: masks that already have the right size are not resized,
and the sigmoid is only computed for kept masks.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

Size = tuple[int, int]


class Sizes(NamedTuple):
    """(H, W) of the padded input, the input and the output."""

    padded: Size
    unpadded: Size
    output: Size


def restore(masks_Qhw: Tensor, sizes: Sizes) -> Tensor:
    """(Q, H, W) at the output size."""
    masks = _resize(masks_Qhw, sizes.padded)[:, : sizes.unpadded[0], : sizes.unpadded[1]]
    return _resize(masks, sizes.output)


def semantic_scores(mask_cls: Tensor, masks_QHW: Tensor) -> Tensor:
    """(K, H, W): the sum over masks of class probability * sigmoid."""
    weights = mask_cls.softmax(dim=-1)[:, :-1]
    return torch.einsum("qc,qhw->chw", weights, masks_QHW.sigmoid())


def semantic(mask_cls: Tensor, masks_QHW: Tensor) -> Tensor:
    """Labels (H, W): the scores of all classes at all pixels, then the best."""
    return semantic_scores(mask_cls, masks_QHW).argmax(dim=0)


def panoptic(
    mask_cls: Tensor,
    masks_QHW: Tensor,
    *,
    is_thing: Tensor,
    object_mask_threshold: float,
    overlap_threshold: float,
) -> tuple[Tensor, list[int]]:
    """Ids (H, W) and the class of each segment."""
    scores, labels = mask_cls.softmax(dim=-1).max(dim=-1)
    keep = labels.ne(mask_cls.shape[1] - 1) & (scores > object_mask_threshold)
    scores, labels, masks = scores[keep], labels[keep], masks_QHW[keep].sigmoid_()
    ids = torch.zeros(masks_QHW.shape[1:], dtype=torch.int32, device=masks.device)
    classes: list[int] = []
    if len(masks) == 0:
        return ids, classes
    winner = (scores.view(-1, 1, 1) * masks).argmax(dim=0)
    stuff: dict[int, int] = {}
    for query in range(len(labels)):
        label = int(labels[query].item())
        won, own = winner == query, masks[query] >= 0.5
        area = won & own
        if area.sum().item() == 0 or won.sum().item() / own.sum().item() < overlap_threshold:
            continue
        if not is_thing[label] and label in stuff:
            ids[area] = stuff[label]
            continue
        classes.append(label)
        ids[area] = len(classes)
        if not is_thing[label]:
            stuff[label] = len(classes)
    return ids, classes


def instances(
    mask_cls: Tensor, masks_QHW: Tensor, *, topk: int, is_thing: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores (N,), classes (N,) and masks (N, H, W) bool, best first."""
    scores = mask_cls.softmax(dim=-1)[:, :-1]
    count = scores.shape[1]
    best, pairs = scores.flatten().topk(min(topk, scores.numel()), sorted=False)
    things = is_thing[pairs % count]
    best, pairs = best[things], pairs[things]
    classes, masks = pairs % count, masks_QHW[pairs // count]
    inside = (masks > 0).float()
    quality = (masks.sigmoid().flatten(1) * inside.flatten(1)).sum(1) / (inside.flatten(1).sum(1) + 1e-6)
    order = (best * quality).argsort(descending=True)
    return (best * quality)[order], classes[order], inside.bool()[order]


def _resize(masks_Qhw: Tensor, size: Size) -> Tensor:
    if masks_Qhw.shape[-2:] == size:
        return masks_Qhw
    return F.interpolate(masks_Qhw[None], size=size, mode="bilinear", align_corners=False)[0]
