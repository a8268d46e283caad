# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import torch

from cmpf.encoders.tiny import build_tiny_clip_model
from tools.tiny_training.clip_features import (
    dense_features,
    imperfect_masks,
    mask_logits,
    pool_cells,
    project,
)


def test_the_dense_map_is_what_open_clip_pools_for_a_whole_image() -> None:
    torch.manual_seed(0)
    model = build_tiny_clip_model()
    images = torch.rand(1, 3, 256, 256) * 255
    with torch.no_grad():
        stage3, dense = dense_features(model, images)
        mean = torch.tensor((122.7709383, 116.7460125, 104.09373615))[:, None, None]
        std = torch.tensor((68.5005327, 66.6321579, 70.32316305))[:, None, None]
        expected = model.encode_image((images - mean) / std, normalize=True)
        assert torch.allclose(project(model, dense.mean(dim=(2, 3))), expected, atol=1e-5)
    assert stage3.shape == (1, 128, 16, 16)
    assert dense.shape == (1, 192, 8, 8)


def test_masks_become_logits_of_one() -> None:
    assert mask_logits(torch.tensor([True, False])).tolist() == [1.0, -1.0]


def test_imperfect_masks_lie_where_the_mask_lies_and_none_is_lost() -> None:
    masks = torch.zeros(1, 40, 128, 128, dtype=torch.bool)
    masks[:, :, 16:64, 32:80] = True  # cells 1..3 by 2..4 of an 8 x 8 map, whole cells of 16 pixels
    cells = imperfect_masks(masks, 8, torch.Generator().manual_seed(0))
    outside = cells.clone()
    outside[:, :, 1:4, 2:5] = 0
    assert outside.sum() == 0
    areas = cells.sum(dim=(2, 3))
    assert (areas > 0).all()
    # Half of them are cut as in inference and whole; of the others every second one has lost cells.
    assert (areas == 9).float().mean() > 0.5
    assert (areas < 9).any()


def test_pooling_means_the_chosen_cells() -> None:
    features = torch.tensor([[[[1.0, 3.0], [5.0, 100.0]]]])
    cells = torch.tensor([[[[1.0, 1.0], [0.0, 0.0]], [[1.0, 0.0], [1.0, 0.0]]]])
    # (1 + 3) / 2 and (1 + 5) / 2
    assert torch.allclose(pool_cells(features, cells), torch.tensor([[[2.0], [3.0]]]))
