# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Semantic segmentation from masks: every mask votes for its classes where it is (MaskFormer, Sec. 3.4).

Test-time augmentation: the mean over several sizes of an image and of its mirror image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from cmpf.encoders.linear import onednn_linear
from cmpf.formats.image import resize_shortest_edge
from cmpf.inference.resize import MaskRows, best_of, resize_rows, source_rows, work_in_tiles
from cmpf.inference.settings import InferenceSettings, Selection, unlabeled
from cmpf.types import ModelResult, Sample


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
        inside = self.masks.rows_last(inner).sigmoid()
        sums = onednn_linear(self.weights.T, inside.flatten(0, 1)).view(self.classes, *inside.shape[:2])
        return resize_rows(sums, rows, tile=inner, source=height, target=self.output)


Infer = Callable[[list[Sample], InferenceSettings], list[ModelResult]]


@dataclass(frozen=True, kw_only=True)
class Views:
    """How an image is looked at: its shorter side in pixels, one view each, and the longest longer side.

    flip: every view also mirrored, left to right.
    """

    short_sides: tuple[int, ...]
    max_side: int
    flip: bool

    def __iter__(self) -> Iterator[tuple[int, bool]]:
        """(shorter side, mirrored) of each view."""
        for mirrored in (False, True) if self.flip else (False,):
            yield from ((side, mirrored) for side in self.short_sides)


def augmented_semantic(
    infer: Infer, batch: Sequence[Sample], *, views: Views, settings: InferenceSettings
) -> list[ModelResult]:
    """Semantic results of each image, each the mean over all views of what the model gives.

    Args:
        infer: the model; asked for scores of semantic results alone.
        batch: samples with `image` (3, H, W) RGB 0..255, best at the size that it has in its file: every view is
            resized from it. Results have the size `height` and `width`, or the image's own.
        views: at least one.
        settings: of the results; panoptic and instance results are not averaged and stay off.
    Returns:
        `sem_seg` alone: (K, H, W) scores, or (H, W) class indices, as the settings say.
    """
    asked = replace(
        settings, semantic=True, panoptic=False, instance=False, proposals=False, semantic_output="scores"
    )
    sums: list[Tensor] = []
    count = 0
    for side, mirrored in views:
        results = infer([_view(sample, side, views.max_side, mirrored) for sample in batch], asked)
        scores = [r["sem_seg"].flip(-1) if mirrored else r["sem_seg"] for r in results]
        sums = [a + b for a, b in zip(sums, scores, strict=True)] if sums else scores
        count += 1
    means = [total / count for total in sums]
    if settings.semantic_output == "labels":
        means = [mean.argmax(dim=0) for mean in means]
    return [{"sem_seg": mean} for mean in means]


def _view(sample: Sample, side: int, max_side: int, mirrored: bool) -> Sample:
    """One view of a sample; SAM's masks that it brings are mirrored with it."""
    image = sample["image"]
    height, width = image.shape[-2:]
    pixels = image.permute(1, 2, 0).clamp(0, 255).to("cpu", torch.uint8).numpy()
    resized = resize_shortest_edge(np.ascontiguousarray(pixels), short_side=side, max_side=max_side)
    resized = resized[:, ::-1] if mirrored else resized
    view: Sample = {
        **sample,
        "image": torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1))),
        "height": sample.get("height", height),
        "width": sample.get("width", width),
    }
    if mirrored and "sam_masks" in sample:
        view["sam_masks"] = sample["sam_masks"].flip(-1)
    return view
