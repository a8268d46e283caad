# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Sampling of ground truth of mixed sizes."""

from __future__ import annotations

import torch

from cmpf.losses.points import sample_points
from cmpf.losses.target_masks import TargetMasks

SIZES = ((2, 5, 7), (0, 3, 3), (3, 16, 4), (1, 1, 1))


def test_masks_of_mixed_sizes_are_sampled_as_each_alone():
    generator = torch.Generator().manual_seed(0)
    masks = [torch.rand(size, generator=generator) > 0.5 for size in SIZES]
    alone = [mask for image in masks for mask in image]
    index = torch.tensor([4, 0, 1, 5, 3, 2, 4])
    coords = torch.rand(7, 50, 2, generator=generator)
    got = TargetMasks(masks).sample(index, coords)
    for row, number in enumerate(index.tolist()):
        wanted = sample_points(alone[number][None, None].float(), coords[row : row + 1])[0, 0]
        torch.testing.assert_close(got[row], wanted, atol=1e-5, rtol=0)


def test_corners_and_edges_fade_to_the_outside():
    masks = TargetMasks([torch.ones(1, 4, 4, dtype=torch.bool)])
    coords = torch.tensor([[[0.0, 0.0], [1.0, 1.0], [0.5, 0.0], [0.5, 0.5], [1.0, 0.5]]])
    # A corner has one of four neighbors inside, an edge two, the middle all.
    assert masks.sample(torch.tensor([0]), coords).tolist() == [[0.25, 0.25, 0.5, 1.0, 0.5]]


def test_a_batch_without_any_mask_can_be_built_and_sampled():
    masks = TargetMasks([torch.zeros(0, 8, 8, dtype=torch.bool)])
    assert masks.sample(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 9, 2)).shape == (0, 9)
