# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""From the network's predictions for one image to the results that were asked for (paper: inference)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from cmpf.common.tensors import resize_bilinear
from cmpf.inference.instance import instance_inference
from cmpf.inference.mask_ensemble import openseg_ensemble
from cmpf.inference.panoptic import panoptic_inference
from cmpf.inference.resize import MaskRows, restore_size
from cmpf.inference.semantic import semantic_labels
from cmpf.inference.settings import ImageGeometry, InferenceSettings, SAMEvidence, semantic_sum_size
from cmpf.types import InstanceResult, ModelResult

MaskEnsemble = Callable[..., tuple[Tensor, Tensor]]  # called as openseg_ensemble is


def image_results(
    mask_cls: Tensor,
    mask_pred: Tensor,
    *,
    geometry: ImageGeometry,
    is_thing: Tensor,
    seen: Tensor,
    settings: InferenceSettings,
    sam: SAMEvidence | None,
    mask_ensemble: MaskEnsemble = openseg_ensemble,
) -> ModelResult:
    """Results of one image for the tasks that are on.

    Args:
        mask_cls: (Q, K + 1) log class distribution, last column void.
        mask_pred: (Q, h, w) mask logits at stride 4 of the padded input.
        is_thing, seen: (K,) bool.
        sam: SAM's masks for the mask ensemble and for mask recall; None = not used.
        mask_ensemble: gives the weights of both kinds of masks.
    """
    result: ModelResult = {}
    if settings.semantic:
        result["sem_seg"] = _semantic(mask_cls, mask_pred, geometry, seen, settings, sam, mask_ensemble)
    if not (settings.panoptic or settings.instance or settings.proposals):
        return result
    masks = MaskRows(mask_pred, padded=geometry.padded, unpadded=geometry.unpadded, output=geometry.output)
    if settings.panoptic:
        result["panoptic_seg"] = panoptic_inference(
            mask_cls,
            masks,
            is_thing=is_thing,
            object_mask_threshold=settings.object_mask_threshold,
            overlap_threshold=settings.overlap_threshold,
        )
    if settings.instance:
        result["instances"] = _instances(mask_cls, masks, is_thing, settings)
    if settings.proposals:
        result["proposals"] = _proposals(mask_pred, geometry, sam)
    return result


def _proposals(mask_pred: Tensor, geometry: ImageGeometry, sam: SAMEvidence | None) -> Tensor:
    """Every mask (Q + M, H, W) bool at the output size, the decoder's and SAM's."""
    masks = restore_size(
        mask_pred[None], padded=geometry.padded, unpadded=geometry.unpadded, output=geometry.output
    )[0]
    sam_masks = masks[:0] if sam is None else resize_bilinear(sam.masks[None], geometry.output)[0]
    return torch.cat([masks, sam_masks]) > 0


def _instances(
    mask_cls: Tensor, masks: MaskRows, is_thing: Tensor, settings: InferenceSettings
) -> InstanceResult:
    # In panoptic mode only things are instances; an instance-only run has nothing but things.
    things = is_thing if settings.panoptic else None
    return instance_inference(
        mask_cls,
        masks,
        topk=settings.detections_per_image,
        is_thing=things,
        mask_score=settings.instance_mask_score,
    )


def _semantic(
    mask_cls: Tensor,
    mask_pred: Tensor,
    geometry: ImageGeometry,
    seen: Tensor,
    settings: InferenceSettings,
    sam: SAMEvidence | None,
    mask_ensemble: MaskEnsemble,
) -> Tensor:
    """Labels (H, W) or scores (K, H, W) at the output size, with SAM's masks added when there are any."""
    weights = F.softmax(mask_cls, dim=-1)[:, :-1]
    size = semantic_sum_size(geometry, settings)
    if settings.mask_ensemble is not None and sam is not None and len(sam.masks):
        # Both kinds of masks enter one sum, so they are first brought to one size.
        weights, kept = mask_ensemble(
            weights,
            sam.class_probs,
            seen,
            alpha=settings.mask_ensemble.alpha,
            score_threshold=settings.mask_ensemble.score_threshold,
        )
        masks = restore_size(mask_pred[None], padded=geometry.padded, unpadded=geometry.unpadded, output=size)
        mask_pred = torch.cat([masks[0], sam.masks[kept]])
        geometry = ImageGeometry(padded=size, unpadded=size, output=geometry.output)
    if settings.semantic_output == "labels":
        return semantic_labels(
            weights,
            mask_pred,
            padded=geometry.padded,
            unpadded=geometry.unpadded,
            output=geometry.output,
            resize_before=size == geometry.output,
        )
    masks = restore_size(mask_pred[None], padded=geometry.padded, unpadded=geometry.unpadded, output=size)[0]
    scores = torch.einsum("qk,qhw->khw", weights, masks.sigmoid())
    return resize_bilinear(scores[None], geometry.output)[0]
