# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Semantic segmentation from masks: every mask votes for its classes where it is (MaskFormer, Sec. 3.4)."""

from __future__ import annotations

import torch
from torch import Tensor

from cmpf.inference.resize import best_of, resize_rows, source_rows, work_in_tiles


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
    weights_QK: Tensor,
    mask_pred_Qhw: Tensor,
    *,
    padded: tuple[int, int],
    unpadded: tuple[int, int],
    output: tuple[int, int],
    resize_before: bool,
) -> Tensor:
    """The best class of each pixel, in tiles of rows: neither masks nor scores ever exist in full size.

    Args:
        weights_QK: class weights of the masks, without void.
        mask_pred_Qhw: mask logits as the network gives them.
        padded, unpadded, output: (H, W) as in `restore_size`.
        resize_before: resize masks to the output size before the sum over masks; else the sums after it.
    Returns:
        (H, W) int64 at the output size, class index.
    """
    queries, classes = weights_QK.shape
    width = max(output[1], unpadded[1], padded[1])
    # A tile of the output may need more rows of the input than it has itself.
    growth = max(1.0, unpadded[0] / output[0])
    labels = torch.empty(output, dtype=torch.int64, device=mask_pred_Qhw.device)
    floats = (queries + classes) * width * growth

    def label(rows: range) -> None:
        inner = source_rows(rows, source=unpadded[0], target=output[0])
        maps = _input_rows(mask_pred_Qhw, inner, padded=padded)[..., : unpadded[1]]
        if not resize_before:
            maps = _sum(weights_QK, maps)
        maps = resize_rows(maps, rows, tile=inner, source=unpadded[0], target=output)
        if resize_before:
            maps = _sum(weights_QK, maps)
        labels[rows.start : rows.stop] = best_of(maps)

    work_in_tiles(output[0], label, floats_per_row=floats, device=labels.device)
    return labels


def _input_rows(masks_Qhw: Tensor, rows: range, *, padded: tuple[int, int]) -> Tensor:
    """Rows of the masks upsampled to the padded input."""
    height = masks_Qhw.shape[1]
    tile = source_rows(rows, source=height, target=padded[0])
    return resize_rows(masks_Qhw[:, tile.start : tile.stop], rows, tile=tile, source=height, target=padded)


def _sum(weights_QK: Tensor, masks_Qhw: Tensor) -> Tensor:
    return torch.einsum("qk,qhw->khw", weights_QK, masks_Qhw.sigmoid())
