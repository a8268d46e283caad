# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Semantic inference (MaskFormer, Sec. 3.4), and test-time augmentation over scales and horizontal flips."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from cmpf.encoders.linear import onednn_linear
from cmpf.formats.image import resize_shortest_edge
from cmpf.inference.resize import MaskRows, argmax_channels, resize_rows, source_rows, work_in_tiles
from cmpf.inference.settings import InferenceSettings, Selection
from cmpf.types import ModelResult, Sample


def semantic_inference(mask_cls: Tensor, mask_pred: Tensor) -> Tensor:
    """Class scores of every pixel: the sum over masks of class probability * sigmoid(mask).

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
    """The best class of each pixel, computed a few rows at a time, so that no full-size masks or scores are allocated.

    Args:
        weights_QK: class weights of the masks, without void.
        masks: Q masks at the size at which they are summed into class scores; the sums are then resized.
        output: (H, W) of the result.
        selection: if its `background` is on, pixels whose best score is below its `min_semantic_score` are unlabeled.
    Returns:
        (H, W) int32 class index; -1 = unlabeled.
    """
    scores = SemanticScores(weights_QK, masks, output)
    labels = torch.empty(output, dtype=torch.int32, device=masks.device)

    def label(rows: range) -> None:
        row_scores = scores.rows(rows)
        best = argmax_channels(row_scores)
        if selection is not None and selection.background:
            best = mark_unlabeled(row_scores.amax(dim=0), best, selection.min_semantic_score)
        labels[rows.start : rows.stop] = best

    work_in_tiles(output[0], label, floats_per_row=scores.floats_per_row, device=labels.device)
    return labels


def mark_unlabeled(best_HW: Tensor, labels_HW: Tensor, minimum: float) -> Tensor:
    """Returns labels (H, W) with -1 where the best class score is below the minimum."""
    return torch.where(best_HW < minimum, -1, labels_HW)


@dataclass(frozen=True)
class SemanticScores:
    """Lazy class scores (K, H, W): only the requested rows are computed.

    weights: (Q, K) class weights of the masks, without void.
    masks: Q masks at the size at which they are summed into class scores; the sums are then resized.
    output: (H, W) of the scores.
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
        """Device of the masks."""
        return self.masks.device

    @property
    def floats_per_row(self) -> float:
        """Memory that one output row needs, in floats; it may be computed from several rows of the sums."""
        height, width = self.masks.size
        sums = self.classes * max(self.output[1], width)
        return (len(self.weights) * self.masks.floats_per_row + sums) * max(1.0, height / self.output[0])

    def rows(self, rows: range) -> Tensor:
        """Scores (K, len(rows), W) of some rows."""
        height = self.masks.size[0]
        inner = source_rows(rows, source=height, target=self.output[0])
        inside = self.masks.rows_last(inner).sigmoid()
        sums = onednn_linear(self.weights.T, inside.flatten(0, 1)).view(self.classes, *inside.shape[:2])
        return resize_rows(sums, rows, tile=inner, source=height, target=self.output)


Infer = Callable[[list[Sample], InferenceSettings], list[ModelResult]]


@dataclass(frozen=True, kw_only=True)
class Views:
    """Views of test-time augmentation.

    short_sides: shorter side in pixels of each view.
    max_side: maximum length in pixels of the longer side.
    flip: whether each view is also used flipped horizontally.
    """

    short_sides: tuple[int, ...]
    max_side: int
    flip: bool

    def __iter__(self) -> Iterator[tuple[int, bool]]:
        """Yields (shorter side, flipped) of each view."""
        for flipped in (False, True) if self.flip else (False,):
            yield from ((side, flipped) for side in self.short_sides)


def augmented_semantic(
    infer: Infer, batch: Sequence[Sample], *, views: Views, settings: InferenceSettings
) -> list[ModelResult]:
    """Semantic results averaged over several views of each image.

    Args:
        infer: the model's inference function.
        batch: samples with `image` (3, H, W) RGB 0..255, preferably at the original size, from which every view is
            resized. Results have size `height` and `width`, by default the image's own.
        views: at least one.
        settings: inference settings; panoptic and instance results are off.
    Returns:
        Results with `sem_seg` only: scores (K, H, W) or class indices (H, W), depending on `semantic_output`.
    """
    view_settings = replace(
        settings, semantic=True, panoptic=False, instance=False, proposals=False, semantic_output="scores"
    )
    sums: list[Tensor] = []
    count = 0
    for side, flipped in views:
        results = infer([_view(sample, side, views.max_side, flipped) for sample in batch], view_settings)
        scores = [r["sem_seg"].flip(-1) if flipped else r["sem_seg"] for r in results]
        sums = [a + b for a, b in zip(sums, scores, strict=True)] if sums else scores
        count += 1
    means = [total / count for total in sums]
    if settings.semantic_output == "labels":
        means = [mean.argmax(dim=0) for mean in means]
    return [{"sem_seg": mean} for mean in means]


def _view(sample: Sample, side: int, max_side: int, flipped: bool) -> Sample:
    """One view of a sample; its `sam_masks` are flipped with the image."""
    image = sample["image"]
    height, width = image.shape[-2:]
    pixels = image.permute(1, 2, 0).clamp(0, 255).to("cpu", torch.uint8).numpy()
    resized = resize_shortest_edge(np.ascontiguousarray(pixels), short_side=side, max_side=max_side)
    resized = resized[:, ::-1] if flipped else resized
    view: Sample = {
        **sample,
        "image": torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1))),
        "height": sample.get("height", height),
        "width": sample.get("width", width),
    }
    if flipped and "sam_masks" in sample:
        view["sam_masks"] = sample["sam_masks"].flip(-1)
    return view
