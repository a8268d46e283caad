# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Instance segmentation from masks: the best (query, class) pairs (Mask2Former)."""

from __future__ import annotations

import torch
from torch import Tensor

from cmpf.functional import masks_to_boxes
from cmpf.types import InstanceResult


def instance_inference(
    mask_cls: Tensor, mask_pred: Tensor, *, topk: int, is_thing: Tensor | None = None
) -> InstanceResult:
    """The `topk` best pairs of query and class, void left out; a query may appear with several classes.

    Args:
        mask_cls: (Q, K + 1) log class distribution, last column void.
        mask_pred: (Q, H, W) mask logits.
        topk: number of pairs.
        is_thing: (K,) bool; of those pairs only things stay. None = all stay.
    Returns:
        Instances, best first; score = class probability * mean of sigmoid(mask) inside the mask.
    """
    probs = mask_cls.float().softmax(dim=-1)[:, :-1]
    scores, pairs = probs.flatten().topk(min(topk, probs.numel()))
    queries, classes = pairs // probs.shape[1], pairs % probs.shape[1]
    if is_thing is not None:
        things = is_thing.to(classes.device)[classes]
        scores, queries, classes = scores[things], queries[things], classes[things]
    chosen, place = torch.unique(queries, return_inverse=True)
    # One mask at a time: a float copy of all chosen masks would be the largest tensor of the whole inference.
    maps = [mask_pred[query] for query in chosen.tolist()]
    masks = torch.stack([mask > 0 for mask in maps]) if maps else mask_pred[:0] > 0
    quality = torch.stack([_quality(mask) for mask in maps]) if maps else scores
    scores = scores * quality[place]
    order = scores.argsort(descending=True, stable=True)
    return InstanceResult(
        pred_masks=masks[place[order]],
        pred_boxes=masks_to_boxes(masks)[place[order]],
        scores=scores[order],
        pred_classes=classes[order],
    )


def _quality(mask_HW: Tensor) -> Tensor:
    """Mean of sigmoid(mask) over the pixels inside the mask, 0 for an empty one."""
    inside = mask_HW > 0
    return (mask_HW.float().sigmoid() * inside).sum() / (inside.sum() + 1e-6)
