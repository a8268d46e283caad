# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Instance inference: the top-scoring (query, class) pairs (Mask2Former)."""

from __future__ import annotations

import torch
from torch import Tensor

from cmpf.common.tensors import filled_to_boxes, in_float64, masks_to_boxes
from cmpf.inference.mask_sequence import mask_sequence
from cmpf.inference.resize import MaskRows, work_in_tiles
from cmpf.inference.settings import Selection
from cmpf.types import InstanceResult


def instance_inference(
    mask_cls: Tensor,
    mask_pred: Tensor | MaskRows,
    *,
    topk: int,
    is_thing: Tensor | None = None,
    mask_score: str = "probability",
    num_decoder_masks: int | None = None,
    held_pixels: int | None = None,
    selection: Selection | None = None,
) -> InstanceResult:
    """Turns the `topk` best (query, class) pairs into instances; a query may occur with several classes.

    Args:
        mask_cls: (Q, K + 1) log class distribution, last column void.
        mask_pred: (Q, H, W) mask logits, or MaskRows that compute them a few rows at a time; only selected queries are
            read.
        topk: number of pairs.
        is_thing: (K,) bool; pairs of other classes are dropped from the `topk`. None = all classes.
        mask_score: "probability", or "logit" as in OVRCOAT, which may exceed 1.
        num_decoder_masks: number of leading masks that are the decoder's; the others are SAM's. None = all.
        held_pixels: if all masks together have more pixels, they are returned as `lazy_masks`; None = never.
        selection: drops pairs by class and class probability before their masks are computed; needs is_thing.
            None = no filter.
    Returns:
        Instances, best first; score = class probability * mean of sigmoid(mask), or of the logit, inside the mask.
    """
    probs = mask_cls.float().softmax(dim=-1)[:, :-1]
    if selection is not None and is_thing is not None:
        pairs = selection.candidates(probs, is_thing, score_is_bounded=mask_score != "logit")
        scores, queries, classes = (values[:topk] for values in pairs)
    else:
        scores, queries, classes = _topk_pairs(probs, topk, is_thing)
    unique_queries, inverse = torch.unique(queries, return_inverse=True)
    source = MaskRows.of(mask_pred)
    lazy = held_pixels is not None and len(queries) * source.size[0] * source.size[1] > held_pixels
    masks, boxes, quality = _compute_masks(
        source.chosen(unique_queries), logits=mask_score == "logit", keep=not lazy
    )
    scores = scores * quality[inverse]
    order = scores.argsort(descending=True, stable=True)
    return InstanceResult(
        pred_masks=masks if lazy else masks[inverse[order]],
        pred_boxes=boxes[inverse[order]],
        scores=scores[order],
        pred_classes=classes[order],
        of_sam=None if num_decoder_masks is None else queries[order] >= num_decoder_masks,
        lazy_masks=mask_sequence(source, queries[order], boxes[inverse[order]]) if lazy else None,
    )


def _topk_pairs(probs: Tensor, topk: int, is_thing: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    scores, pairs = probs.flatten().topk(min(topk, probs.numel()))
    queries, classes = pairs // probs.shape[1], pairs % probs.shape[1]
    if is_thing is None:
        return scores, queries, classes
    things = is_thing.to(classes.device)[classes]
    return scores[things], queries[things], classes[things]


@torch.no_grad()
def _compute_masks(masks: MaskRows, *, logits: bool, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Masks, boxes and mask scores.

    Returns:
        (N, H, W) bool masks, or (0, H, W) without `keep`; (N, 4) boxes; and (N,) the mean of the sigmoid (or logit)
        inside each mask, 0 for an empty mask.
    """
    count, height, width = masks.shape
    result = torch.empty(count if keep else 0, height, width, dtype=torch.bool, device=masks.device)
    if count == 0:
        return result, masks_to_boxes(result), torch.zeros(0, device=masks.device)
    # Sums of each row, allocated at once: allocations between those of the tiles would fragment memory.
    sums = torch.empty(2, count, height, device=masks.device)
    filled_rows = torch.empty(count, height, dtype=torch.bool, device=masks.device)
    filled_columns = torch.zeros(count, width, dtype=torch.bool, device=masks.device)

    def compute(rows: range) -> None:
        values = masks.rows(rows)
        inside = torch.gt(values, 0, out=torch.empty_like(values))  # float, which torch sums faster than bool
        tile = slice(rows.start, rows.stop)
        filled_rows[:, tile] = inside.amax(dim=2) > 0
        if keep:
            result[:, tile] = values > 0
        sums[0, :, tile] = (values if logits else values.sigmoid_()).mul_(inside).sum(dim=2)
        sums[1, :, tile] = inside.sum(dim=2)
        filled_columns.logical_or_(inside.amax(dim=1) > 0)

    floats = count * masks.floats_per_row
    work_in_tiles(height, compute, floats_per_row=floats, device=masks.device)
    total, area = in_float64(sums).sum(dim=2)
    boxes = filled_to_boxes(filled_rows, filled_columns)
    return result, boxes, (total / (area + 1e-6)).float().to(masks.device)
