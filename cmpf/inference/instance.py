# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Instance segmentation from masks: the best (query, class) pairs (Mask2Former)."""

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
    of_decoder: int | None = None,
    held_pixels: int | None = None,
    selection: Selection | None = None,
) -> InstanceResult:
    """The `topk` best pairs of query and class, void left out; a query may appear with several classes.

    Args:
        mask_cls: (Q, K + 1) log class distribution, last column void.
        mask_pred: (Q, H, W) mask logits, whole or made a tile of rows at a time; only the chosen ones are read.
        topk: number of pairs.
        is_thing: (K,) bool; of those pairs only things stay. None = all stay.
        mask_score: "probability", or "logit" as OVRCOAT computes it, which may exceed 1.
        of_decoder: how many of the masks, the first ones, are the decoder's; the others are SAM's. None = all.
        held_pixels: with more pixels in all masks together, masks are left to `lazy_masks`; None = never.
        selection: pairs that it would leave out whatever their masks are not made; needs is_thing. None = all are.
    Returns:
        Instances, best first; score = class probability * mean of sigmoid(mask), or of the logit, inside the mask.
    """
    probs = mask_cls.float().softmax(dim=-1)[:, :-1]
    if selection is not None and is_thing is not None:
        pairs = selection.pairs(probs, is_thing, bounded=mask_score != "logit")
        scores, queries, classes = (values[:topk] for values in pairs)
    else:
        scores, queries, classes = _best_pairs(probs, topk, is_thing)
    chosen, place = torch.unique(queries, return_inverse=True)
    source = MaskRows.of(mask_pred)
    lazy = held_pixels is not None and len(queries) * source.size[0] * source.size[1] > held_pixels
    masks, boxes, quality = _masks(source.chosen(chosen), logits=mask_score == "logit", keep=not lazy)
    scores = scores * quality[place]
    order = scores.argsort(descending=True, stable=True)
    return InstanceResult(
        pred_masks=masks if lazy else masks[place[order]],
        pred_boxes=boxes[place[order]],
        scores=scores[order],
        pred_classes=classes[order],
        of_sam=None if of_decoder is None else queries[order] >= of_decoder,
        lazy_masks=mask_sequence(source, queries[order], boxes[place[order]]) if lazy else None,
    )


def _best_pairs(probs: Tensor, topk: int, is_thing: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    scores, pairs = probs.flatten().topk(min(topk, probs.numel()))
    queries, classes = pairs // probs.shape[1], pairs % probs.shape[1]
    if is_thing is None:
        return scores, queries, classes
    things = is_thing.to(classes.device)[classes]
    return scores[things], queries[things], classes[things]


@torch.no_grad()
def _masks(masks: MaskRows, *, logits: bool, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Masks (N, H, W) bool, or none where they are not to be kept; the boxes of all; and the mean of the sigmoid (or
    logit) inside each, 0 for an empty one."""
    count, height, width = masks.shape
    kept = count if keep else 0
    result = torch.empty(kept, height, width, dtype=torch.bool, device=masks.device)
    if count == 0:
        return result, masks_to_boxes(result), torch.zeros(0, device=masks.device)
    # Of each row. Pieces of their own would lie between those of the tiles and keep these from being given back.
    sums = torch.empty(2, count, height, device=masks.device)
    filled_rows = torch.empty(count, height, dtype=torch.bool, device=masks.device)
    filled_columns = torch.zeros(count, width, dtype=torch.bool, device=masks.device)

    def cut(rows: range) -> None:
        values = masks.rows(rows)
        inside = torch.gt(values, 0, out=torch.empty_like(values))  # in floats, which torch sums faster
        tile = slice(rows.start, rows.stop)
        filled_rows[:, tile] = inside.amax(dim=2) > 0
        if keep:
            result[:, tile] = values > 0
        sums[0, :, tile] = (values if logits else values.sigmoid_()).mul_(inside).sum(dim=2)
        sums[1, :, tile] = inside.sum(dim=2)
        filled_columns.logical_or_(inside.amax(dim=1) > 0)

    floats = count * masks.floats_per_row
    work_in_tiles(height, cut, floats_per_row=floats, device=masks.device)
    total, area = in_float64(sums).sum(dim=2)
    boxes = filled_to_boxes(filled_rows, filled_columns)
    return result, boxes, (total / (area + 1e-6)).float().to(masks.device)
