# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import pytest
import torch
from helpers.tiny_model import picture, tiny_model
from torch.nn import functional as F

from cmpf.data import Vocabulary
from cmpf.frozen_encoders import SAM_PIXEL_MEAN, SAM_PIXEL_STD, FrozenEncoders
from cmpf.inference import ImageGeometry
from cmpf.model import CMPF


@pytest.fixture(scope="module")
def model() -> CMPF:
    return tiny_model()


@pytest.fixture(scope="module")
def encoders(model: CMPF) -> FrozenEncoders:
    return model.encoders


def test_a_batch_is_padded_to_multiples_of_32_and_features_follow(encoders: FrozenEncoders) -> None:
    batch = [{"image": picture(50, 70)}, {"image": picture(64, 40)}]
    features, padded, sizes = encoders(batch, with_sam=True)
    assert padded == (64, 96)  # 64 = 2 * 32; 70 -> 96 = 3 * 32
    assert sizes == [(50, 70), (64, 40)]
    strides = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
    for name, level in features.clip.levels.items():
        assert level.shape[-2:] == (64 // strides[name], 96 // strides[name])
    assert features.sam is not None
    assert features.sam.shape[0] == 2


def test_sam_runs_only_when_it_is_asked_for(encoders: FrozenEncoders) -> None:
    features, _, _ = encoders([{"image": picture()}], with_sam=False)
    assert features.sam is None


def test_sam_sees_its_own_normalisation_padded_after_it(encoders: FrozenEncoders) -> None:
    image = picture(50, 70)
    given = encoders._sam_input([{"image": image}])
    mean, std = (torch.tensor(v)[:, None, None] for v in (SAM_PIXEL_MEAN, SAM_PIXEL_STD))
    torch.testing.assert_close(given[0, :, :50, :70], (image.float() - mean) / std)
    assert given.shape == (1, 3, 64, 96)
    assert given[0, :, 50:].abs().sum() == 0
    assert given[0, :, :, 70:].abs().sum() == 0


def test_no_gradient_reaches_or_leaves_the_encoders(encoders: FrozenEncoders) -> None:
    features, _, _ = encoders([{"image": picture()}], with_sam=True)
    assert not features.clip.dense.requires_grad
    assert features.sam is not None
    assert not features.sam.requires_grad


def naive_probabilities(
    model: CMPF, features, masks: torch.Tensor, geometry: ImageGeometry, words: Vocabulary
):
    """Pads each mask to the padded picture, picks the map's nearest cells, pools by loops, scores with CLIP."""
    clip, dense = model.encoders.clip, features.clip.dense
    height, width = dense.shape[-2:]
    rows = []
    for mask in masks:
        padded = F.pad(
            mask, (0, geometry.padded[1] - mask.shape[1], 0, geometry.padded[0] - mask.shape[0]), value=-1.0
        )
        total, count = torch.zeros(dense.shape[1]), 0
        for y in range(height):
            for x in range(width):
                if padded[y * geometry.padded[0] // height, x * geometry.padded[1] // width] > 0:
                    total, count = total + dense[0, :, y, x], count + 1
        pooled = (total / max(count, 1))[None, :, None, None]
        rows.append(clip.embed_masks(pooled, torch.ones(1, 1, 1, 1))[0][0, 0])
    embeddings = F.normalize(torch.stack(rows), dim=-1)
    classes = model._with_void(model.class_embeddings(words))
    similarity = clip.logit_scale * embeddings @ classes.matrix.T
    logits = torch.stack(
        [similarity[:, classes.class_of_row == k].amax(dim=1) for k in range(classes.num_classes)], dim=1
    )
    return logits.softmax(dim=-1)[:, :-1]


def test_sam_masks_are_named_by_the_features_that_lie_under_them(
    model: CMPF, encoders: FrozenEncoders
) -> None:
    words = Vocabulary.from_words(["red circle, scarlet disc", "sky", "unicorn"])
    features, padded, sizes = encoders([{"image": picture(100, 150)}], with_sam=False)
    geometry = ImageGeometry(padded=padded, unpadded=sizes[0], output=(50, 75))
    masks = torch.full((3, 100, 150), -4.0)
    masks[0, :50, :60] = 4.0
    masks[1, 60:, 100:] = 4.0
    masks[2, 10:90, 40:140] = 4.0
    with torch.no_grad():
        evidence = encoders.evidence(
            masks,
            features.clip.dense,
            classes=model._with_void(model.class_embeddings(words)),
            geometry=geometry,
            size=(50, 75),
            published_pooling=False,
        )
        expected = naive_probabilities(model, features, masks, geometry, words)
    torch.testing.assert_close(evidence.class_probs, expected, rtol=1e-4, atol=1e-5)
    assert evidence.masks.shape == (3, 50, 75)


def test_hashes_name_the_encoders_that_the_weights_belong_to(encoders: FrozenEncoders) -> None:
    assert list(encoders.hashes()) == ["clip/cmpf_tiny", "sam/cmpf_tiny"]
    assert all(len(value) == 64 for value in encoders.hashes().values())
