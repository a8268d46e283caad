# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What a call asks for: settings, vocabulary and sizes, as the steps after the network read them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from cmpf.types import ClassEmbeddings


@dataclass(frozen=True, kw_only=True)
class MaskEnsembleSettings:
    """OpenSeg Ensemble.

    alpha: weight of SAM's masks for unseen classes. score_threshold: unseen probability that a mask must exceed.
    published_pooling: pool CLIP's features as the published code does, see sam_evidence.
    """

    alpha: float
    score_threshold: float
    published_pooling: bool


@dataclass(frozen=True, kw_only=True)
class InferenceSettings:
    """Everything that may differ between two runs of the same network; values come from the configuration.

    alpha, beta: weight of CLIP's opinion for seen and unseen classes.
    ensemble_on_valid_mask: leave CLIP's opinion out for masks without a pixel on CLIP's map.
    clip_objectness: lambda of the objectness adjustment, 0 = off.
    semantic_output: "labels" or "scores".
    resize_before: resize masks to the output size before the semantic sum, not after it.
    instance_mask_score: "probability" or "logit", see instance_inference.
    mask_ensemble: None = off. proposals: also return every proposed mask (for mask recall).
    """

    alpha: float
    beta: float
    ensemble_on_valid_mask: bool
    clip_objectness: float
    semantic: bool
    panoptic: bool
    instance: bool
    semantic_output: str
    object_mask_threshold: float
    overlap_threshold: float
    resize_before: bool
    detections_per_image: int
    mask_ensemble: MaskEnsembleSettings | None
    proposals: bool
    instance_mask_score: str = "probability"  # what programs that were exported without it computed


@dataclass(frozen=True)
class Request:
    """One call's vocabulary, as tensors, and its settings. is_thing, seen: (K,) bool."""

    classes: ClassEmbeddings
    is_thing: Tensor
    seen: Tensor
    settings: InferenceSettings


@dataclass(frozen=True)
class ImageGeometry:
    """Sizes (H, W) of one image: padded network input, input without padding, wanted output."""

    padded: tuple[int, int]
    unpadded: tuple[int, int]
    output: tuple[int, int]


@dataclass(frozen=True)
class SAMEvidence:
    """SAM's masks of one image: logits (M, H, W) at the semantic sum's size, class probabilities (M, K)."""

    masks: Tensor
    class_probs: Tensor


def semantic_sum_size(geometry: ImageGeometry, settings: InferenceSettings) -> tuple[int, int]:
    """The resolution at which masks are summed into class scores."""
    before = settings.resize_before or settings.panoptic or settings.instance
    return geometry.output if before else geometry.unpadded
