# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from cmpf.inference import InferenceSettings, MaskEnsembleSettings
from cmpf.inference.pipeline import image_results
from cmpf.inference.settings import ImageGeometry, SAMEvidence, semantic_sum_size

SETTINGS = InferenceSettings(
    alpha=0.4,
    beta=0.8,
    ensemble_on_valid_mask=False,
    clip_objectness=0.0,
    semantic=True,
    panoptic=False,
    instance=False,
    semantic_output="labels",
    object_mask_threshold=0.0,
    overlap_threshold=0.8,
    resize_before=False,
    detections_per_image=10,
    mask_ensemble=None,
    proposals=False,
)
GEOMETRY = ImageGeometry(padded=(32, 64), unpadded=(30, 50), output=(60, 100))
K, Q = 3, 5


@pytest.fixture
def predictions() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    mask_cls = torch.randn(Q, K + 1, generator=generator).log_softmax(-1)
    return mask_cls, 4 * torch.randn(Q, 8, 16, generator=generator)


def results(predictions, settings: InferenceSettings, sam: SAMEvidence | None = None, geometry=GEOMETRY):
    return image_results(
        *predictions,
        geometry=geometry,
        is_thing=torch.tensor([True, False, True]),
        seen=torch.tensor([True, True, False]),
        settings=settings,
        sam=sam,
    )


def plain_scores(predictions, size, *, geometry=GEOMETRY) -> torch.Tensor:
    """Mask2Former's formula, written out: upsample, cut the padding, weigh, sum, resize."""
    mask_cls, mask_pred = predictions
    masks = F.interpolate(mask_pred[None], geometry.padded, mode="bilinear", align_corners=False)
    masks = masks[..., : geometry.unpadded[0], : geometry.unpadded[1]]
    if size != geometry.unpadded:
        masks = F.interpolate(masks, size, mode="bilinear", align_corners=False)
    probabilities = mask_cls.softmax(-1)
    scores = torch.zeros(K, *size)
    for q in range(Q):
        for k in range(K):
            scores[k] += probabilities[q, k] * masks[0, q].sigmoid()
    if size != geometry.output:
        scores = F.interpolate(scores[None], geometry.output, mode="bilinear", align_corners=False)[0]
    return scores


@pytest.mark.parametrize("resize_before", [False, True])
def test_scores_follow_the_formula_at_either_place_of_the_resize(predictions, resize_before: bool) -> None:
    settings = replace(SETTINGS, semantic_output="scores", resize_before=resize_before)
    size = GEOMETRY.output if resize_before else GEOMETRY.unpadded
    scores = results(predictions, settings)["sem_seg"]
    torch.testing.assert_close(scores, plain_scores(predictions, size))


@pytest.mark.parametrize("resize_before", [False, True])
def test_labels_are_the_best_scores(predictions, resize_before: bool) -> None:
    settings = replace(SETTINGS, resize_before=resize_before)
    scores = results(predictions, replace(settings, semantic_output="scores"))["sem_seg"]
    labels = results(predictions, settings)["sem_seg"]
    assert labels.shape == GEOMETRY.output
    assert (labels == scores.argmax(0)).float().mean() > 0.999  # rounding may part equal scores


def test_panoptic_or_instance_output_moves_the_resize_before_the_sum() -> None:
    assert semantic_sum_size(GEOMETRY, SETTINGS) == GEOMETRY.unpadded
    assert semantic_sum_size(GEOMETRY, replace(SETTINGS, panoptic=True)) == GEOMETRY.output
    assert semantic_sum_size(GEOMETRY, replace(SETTINGS, instance=True)) == GEOMETRY.output


def test_only_the_tasks_that_are_on_are_computed(predictions) -> None:
    assert set(results(predictions, SETTINGS)) == {"sem_seg"}
    on = replace(SETTINGS, semantic=False, panoptic=True, instance=True, proposals=True)
    found = results(predictions, on)
    assert set(found) == {"panoptic_seg", "instances", "proposals"}
    assert found["panoptic_seg"][0].shape == GEOMETRY.output
    assert found["proposals"].shape == (Q, *GEOMETRY.output)
    assert found["proposals"].dtype == torch.bool


def test_in_panoptic_mode_only_things_are_instances(predictions) -> None:
    both = results(predictions, replace(SETTINGS, panoptic=True, instance=True))["instances"]
    alone = results(predictions, replace(SETTINGS, instance=True))["instances"]
    assert 1 not in both.pred_classes
    assert 1 in alone.pred_classes


def sam_evidence(probability: float) -> SAMEvidence:
    """One SAM mask over the left half of the image, which CLIP calls class 2 with the given probability."""
    masks = torch.full((1, *GEOMETRY.unpadded), -6.0)
    masks[:, :, :25] = 6.0
    rest = (1 - probability) / 2
    return SAMEvidence(masks=masks, class_probs=torch.tensor([[rest, rest, probability]]))


def test_sam_masks_add_to_unseen_classes_only(predictions) -> None:
    ensemble = MaskEnsembleSettings(epsilon=0.2, score_threshold=0.5, published_pooling=False)
    settings = replace(SETTINGS, semantic_output="scores", resize_before=False, mask_ensemble=ensemble)
    geometry = replace(GEOMETRY, output=GEOMETRY.unpadded)
    sam = sam_evidence(0.9)
    scores = results(predictions, settings, sam, geometry)["sem_seg"]
    plain = plain_scores(predictions, geometry.unpadded, geometry=geometry)
    torch.testing.assert_close(scores[:2], plain[:2])
    # unseen class 2: (1 - 0.2) * plain + 0.2 * 0.9 * sigmoid(mask)
    torch.testing.assert_close(scores[2], 0.8 * plain[2] + 0.2 * 0.9 * sam.masks[0].sigmoid())


@pytest.mark.parametrize(
    "sam", [sam_evidence(0.4), SAMEvidence(torch.zeros(0, 30, 50), torch.zeros(0, K)), None]
)
def test_without_a_sure_sam_mask_the_scores_stay_plain(predictions, sam: SAMEvidence | None) -> None:
    ensemble = MaskEnsembleSettings(epsilon=0.2, score_threshold=0.5, published_pooling=False)
    settings = replace(SETTINGS, semantic_output="scores", mask_ensemble=ensemble)
    geometry = replace(GEOMETRY, output=GEOMETRY.unpadded)
    scores = results(predictions, settings, sam, geometry)["sem_seg"]
    torch.testing.assert_close(scores, plain_scores(predictions, geometry.unpadded, geometry=geometry))


def test_sam_masks_are_proposals_too(predictions) -> None:
    ensemble = MaskEnsembleSettings(epsilon=0.2, score_threshold=0.5, published_pooling=False)
    settings = replace(SETTINGS, proposals=True, mask_ensemble=ensemble)
    proposals = results(predictions, settings, sam_evidence(0.1))["proposals"]
    assert proposals.shape == (Q + 1, *GEOMETRY.output)
    assert proposals[-1, :, :48].all()
    assert not proposals[-1, :, 52:].any()
