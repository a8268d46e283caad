# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Post-processing of one image: from the network's predictions to the requested results (paper: inference)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from cmpf.common.regions import remove_islands
from cmpf.common.tensors import resize_bilinear
from cmpf.inference.ensembles import join_candidates, openseg_ensemble
from cmpf.inference.instance import instance_inference
from cmpf.inference.mask_proposals import at_size, over_input
from cmpf.inference.panoptic import panoptic_inference
from cmpf.inference.resize import MaskRows, restore_size
from cmpf.inference.semantic import SemanticScores, semantic_labels
from cmpf.inference.settings import ImageGeometry, InferenceSettings, SAMEvidence, semantic_sum_size
from cmpf.types import InstanceResult, ModelResult, SegmentInfo

MaskEnsemble = Callable[..., tuple[Tensor, Tensor]]  # same signature as openseg_ensemble


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
    """Computes the results of one image for the tasks that are on.

    Args:
        mask_cls: (Q, K + 1) log class distribution, last column void.
        mask_pred: (Q, h, w) mask logits at stride 4 of the padded input.
        is_thing, seen: (K,) bool.
        sam: SAM's masks for the mask ensemble and for mask recall; None = not used.
        mask_ensemble: returns the class weights of the decoder's and SAM's masks.
    """
    result: ModelResult = {}
    if settings.semantic:
        scores = _semantic_scores(mask_cls, mask_pred, geometry, seen, settings, sam, mask_ensemble)
        _add_semantic(result, scores, settings)
    if settings.proposals:
        result["proposals"] = _proposals(mask_pred, geometry, sam)
    if settings.panoptic or settings.instance:
        min_share = settings.min_island_share
        cleaned = remove_islands_from(mask_pred, min_share=min_share)
        if sam is not None:
            sam_masks = remove_islands_from(sam.proposals.logits, min_share=min_share)
            sam = replace(sam, proposals=replace(sam.proposals, logits=sam_masks))
        candidates = partial(_candidate_masks, mask_cls, cleaned, geometry, seen, settings, sam)
        if settings.panoptic:
            result["panoptic_seg"] = _panoptic(candidates("panoptic"), is_thing, settings)
        if settings.instance:
            result["instances"] = _instances(candidates("instance"), is_thing, settings)
    return result


@dataclass(frozen=True)
class _CandidateMasks:
    """Masks (N, H, W) of the decoder, then of SAM, and their log class distributions (N, K + 1)."""

    mask_cls: Tensor
    masks: MaskRows
    num_decoder_masks: int


def _candidate_masks(
    mask_cls: Tensor,
    mask_pred: Tensor,
    geometry: ImageGeometry,
    seen: Tensor,
    settings: InferenceSettings,
    sam: SAMEvidence | None,
    task: str,
) -> _CandidateMasks:
    """The decoder's masks, and SAM's if they are candidates for the task."""
    rows = partial(MaskRows, padded=geometry.padded, unpadded=geometry.unpadded, output=geometry.output)
    ensemble = settings.ensemble_for(task)
    if ensemble is None or sam is None:
        return _CandidateMasks(mask_cls, rows(mask_pred), len(mask_cls))
    joined = join_candidates(
        mask_cls,
        mask_pred,
        sam.class_probs,
        over_input(sam.proposals, padded=geometry.padded, unpadded=geometry.unpadded),
        seen,
        score_threshold=ensemble.score_threshold,
        decoder_share=ensemble.decoder_share,
        max_overlap=ensemble.max_overlap,
    )
    masks = rows(mask_pred[joined.decoder]).joined(sam.rows(joined.sam, geometry.output))
    return _CandidateMasks(joined.mask_cls, masks, len(joined.decoder))


def _panoptic(
    candidates: _CandidateMasks, is_thing: Tensor, settings: InferenceSettings
) -> tuple[Tensor, list[SegmentInfo]]:
    ensemble, selection = settings.ensemble_for("panoptic"), settings.selection
    threshold = settings.object_mask_threshold
    return panoptic_inference(
        candidates.mask_cls,
        candidates.masks,
        is_thing=is_thing,
        object_mask_threshold=threshold if selection is None else selection.raise_threshold(threshold),
        overlap_threshold=settings.overlap_threshold if ensemble is None else ensemble.overlap_threshold,
        num_decoder_masks=candidates.num_decoder_masks,
    )


def _instances(candidates: _CandidateMasks, is_thing: Tensor, settings: InferenceSettings) -> InstanceResult:
    # Datasets that are evaluated on instances alone have only thing classes and need no filter.
    return instance_inference(
        candidates.mask_cls,
        candidates.masks,
        topk=settings.detections_per_image,
        is_thing=is_thing if settings.panoptic or settings.selection is not None else None,
        mask_score=settings.instance_mask_score,
        held_pixels=settings.held_pixels,
        selection=settings.selection,
        num_decoder_masks=candidates.num_decoder_masks,
    )


def _proposals(mask_pred: Tensor, geometry: ImageGeometry, sam: SAMEvidence | None) -> Tensor:
    """All masks (Q + M, H, W) bool of the decoder and SAM at the output size."""
    masks = restore_size(
        mask_pred[None], padded=geometry.padded, unpadded=geometry.unpadded, output=geometry.output
    )[0]
    sam_masks = masks[:0] if sam is None else at_size(sam.proposals, geometry.output)
    return torch.cat([masks, sam_masks]) > 0


def remove_islands_from(mask_logits_Qhw: Tensor, *, min_share: float) -> Tensor:
    """Flips the sign of logits in islands: regions smaller than `min_share` of the mask's largest region.

    Islands far from the object spoil a mask's box. Large ones are kept, because an occluded object may have several
    parts. Masks are cleaned at the network's resolution, where they have fewer pixels.

    Returns:
        (Q, h, w) mask logits.
    """
    if min_share == 0:
        return mask_logits_Qhw
    inside = mask_logits_Qhw > 0
    kept = torch.from_numpy(remove_islands(inside.cpu().numpy(), min_share=min_share))
    return torch.where(inside & ~kept.to(inside.device), -mask_logits_Qhw, mask_logits_Qhw)


def _semantic_scores(
    mask_cls: Tensor,
    mask_pred: Tensor,
    geometry: ImageGeometry,
    seen: Tensor,
    settings: InferenceSettings,
    sam: SAMEvidence | None,
    mask_ensemble: MaskEnsemble,
) -> SemanticScores:
    """Class scores at the output size, including SAM's masks if the mask ensemble is on."""
    weights = F.softmax(mask_cls, dim=-1)[:, :-1]
    size = semantic_sum_size(geometry, settings)
    masks = MaskRows(mask_pred, padded=geometry.padded, unpadded=geometry.unpadded, output=size)
    ensemble = settings.ensemble_for("semantic")
    if ensemble is not None and sam is not None and len(sam.proposals):
        weights, kept = mask_ensemble(
            weights,
            sam.class_probs[:, :-1],
            seen,
            alpha=ensemble.alpha,
            score_threshold=ensemble.score_threshold,
        )
        masks = masks.joined(sam.rows(kept, size))
    return SemanticScores(weights, masks, geometry.output)


def _add_semantic(result: ModelResult, scores: SemanticScores, settings: InferenceSettings) -> None:
    """Adds labels (H, W), scores (K, H, W) or lazy scores to the result."""
    if settings.semantic_output == "lazy":
        result["semantic_scores"] = scores
        return
    weights, masks, output = scores.weights, scores.masks, scores.output
    if settings.semantic_output == "labels":
        result["sem_seg"] = semantic_labels(weights, masks, output=output, selection=settings.selection)
        return
    sums = torch.einsum("qk,qhw->khw", weights, masks.rows(range(masks.size[0])).sigmoid())
    result["sem_seg"] = resize_bilinear(sums[None], output)[0]
