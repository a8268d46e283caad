# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Semantic segmentation from masks: every mask votes for its classes where it is (MaskFormer, Sec. 3.4)."""

from __future__ import annotations

from dataclasses import dataclass

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
    scores = SemanticScores(weights_QK, masks, output)
    labels = torch.empty(output, dtype=torch.int32, device=masks.device)

    def label(rows: range) -> None:
        found = scores.rows(rows)
        best = best_of(found)
        if selection is not None and selection.background:
            best = unlabeled(found.amax(dim=0), best, selection.min_semantic_score)
        labels[rows.start : rows.stop] = best

    work_in_tiles(output[0], label, floats_per_row=scores.floats_per_row, device=labels.device)
    return labels


@dataclass(frozen=True)
class SemanticScores:
    """Scores of K classes at all pixels, of which only the rows at work exist.

    weights: (Q, K) class weights of the masks, without void. masks: Q masks at the size at which they are summed into
    class scores; the sums are then resized. output: (H, W) of the scores.
    """

    weights: Tensor
    masks: MaskRows
    output: tuple[int, int]

    @property
    def classes(self) -> int:
        """K."""
        return self.weights.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the masks lie."""
        return self.masks.device

    @property
    def floats_per_row(self) -> float:
        """What a row of the output needs; it may need more rows of the sums."""
        height, width = self.masks.size
        sums = self.classes * max(self.output[1], width)
        return (len(self.weights) * self.masks.floats_per_row + sums) * max(1.0, height / self.output[0])

    def rows(self, rows: range) -> Tensor:
        """(K, len(rows), W)."""
        height = self.masks.size[0]
        inner = source_rows(rows, source=height, target=self.output[0])
        sums = torch.einsum("qk,qhw->khw", self.weights, self.masks.rows(inner).sigmoid())
        return resize_rows(sums, rows, tile=inner, source=height, target=self.output)
