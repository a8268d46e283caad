# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Semantic segmentation from masks: every mask votes for its classes where it is (MaskFormer, Sec. 3.4)."""

from __future__ import annotations

import torch
from torch import Tensor

from cmpf.inference.resize import MaskRows, best_of, resize_rows, source_rows, work_in_tiles
from cmpf.inference.settings import Selection, unlabeled


def semantic_inference(mask_cls: Tensor, mask_pred: Tensor) -> Tensor:
    """Scores of all classes at all pixels.

    Args:
        mask_cls: (Q, K + 1) log class distribution, last column void.
        mask_pred: (Q, H, W) mask logits.
    Returns:
        (K, H, W).
    """
    weights = mask_cls.softmax(dim=-1)[:, :-1]
    return torch.einsum("qk,qhw->khw", weights, mask_pred.sigmoid())


def semantic_labels(
    weights_QK: Tensor, masks: MaskRows, *, output: tuple[int, int], selection: Selection | None = None
) -> Tensor:
    """The best class of each pixel, in tiles of rows: neither masks nor scores ever exist in full size.

    Args:
        weights_QK: class weights of the masks, without void.
        masks: Q masks at the size at which they are summed into class scores; the sums are then resized.
        output: (H, W) of the result.
        selection: where it asks for a background, pixels of which no class is sure enough have none.
    Returns:
        (H, W) int32 at the output size, class index; -1 = none.
    """
    queries, classes = weights_QK.shape
    height, width = masks.shape[1:]
    labels = torch.empty(output, dtype=torch.int32, device=masks.device)
    # A row of the output may need more rows of the sums.
    sums = classes * max(output[1], width) * max(1.0, height / output[0])
    floats = queries * masks.floats_per_row * max(1.0, height / output[0]) + sums

    def label(rows: range) -> None:
        inner = source_rows(rows, source=height, target=output[0])
        scores = torch.einsum("qk,qhw->khw", weights_QK, masks.rows(inner).sigmoid())
        resized = resize_rows(scores, rows, tile=inner, source=height, target=output)
        best = best_of(resized)
        if selection is not None and selection.background:
            best = unlabeled(resized.amax(dim=0), best, selection.min_semantic_score)
        labels[rows.start : rows.stop] = best

    work_in_tiles(output[0], label, floats_per_row=floats, device=labels.device)
    return labels
