# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.tiny_model import tiny_model, training_sample

from cmpf.factory.training_images import image_drawer, target_segments


def test_targets_become_segments_and_the_last_of_two_shows() -> None:
    masks = torch.zeros(2, 2, 3, dtype=torch.bool)
    masks[0, :, :2] = True
    masks[1, 0, 1:] = True
    ids, segments = target_segments({"labels": torch.tensor([4, 9]), "masks": masks})
    assert ids.tolist() == [[1, 2, 2], [1, 1, 0]]
    assert segments == [{"id": 1, "category_id": 4}, {"id": 2, "category_id": 9}]


def test_targets_and_predictions_stand_side_by_side() -> None:
    model = tiny_model("cmpf_tiny")
    before = {name: value.clone() for name, value in model.trained_state_dict().items()}
    draw = image_drawer(model, count=2)
    batch = [training_sample(64, 96, seed=i, targets=i) for i in range(3)]
    images = draw(batch)
    assert list(images) == ["training/image_0", "training/image_1"]
    for image in images.values():
        assert image.dtype == np.uint8
        height, width, _ = image.shape
        assert width / height == pytest.approx(3, rel=0.01)  # two images of 64 x 96, enlarged
    # The first image has no target: its left half is the image itself, not the same as with a segment on it.
    halves = [np.hsplit(image, 2)[0] for image in images.values()]
    assert not np.array_equal(halves[0], halves[1])
    assert all(torch.equal(before[name], value) for name, value in model.trained_state_dict().items())
