# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Points on masks, and ground-truth masks of any size read at them."""

from __future__ import annotations

import pytest
import torch

from cmpf.losses.points import TargetMasks, sample_points, uncertain_points, uniform_points


def test_pixel_centers_give_the_pixels_themselves():
    maps = torch.arange(6.0).reshape(1, 1, 2, 3)
    # Center of pixel (row 1, column 2) of a 2 x 3 map: x = 2.5 / 3, y = 1.5 / 2.
    coords = torch.tensor([[[0.5 / 3, 0.25], [2.5 / 3, 0.75]]])
    assert sample_points(maps, coords)[0, 0].tolist() == pytest.approx([0.0, 5.0], abs=1e-5)


def test_between_four_pixels_stands_their_mean_and_beyond_the_edge_comes_zero():
    maps = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]])
    # The middle: (1 + 2 + 3 + 6) / 4 = 3. The corner (0, 0) lies between pixel 1 and three outside: 1 / 4.
    values = sample_points(maps, torch.tensor([[[0.5, 0.5], [0.0, 0.0]]]))
    assert values.flatten().tolist() == pytest.approx([3.0, 0.25])


def test_uniform_points_follow_the_global_seed():
    torch.manual_seed(3)
    first = uniform_points(2, 5, torch.device("cpu"))
    torch.manual_seed(3)
    assert torch.equal(first, uniform_points(2, 5, torch.device("cpu")))
    assert first.shape == (2, 5, 2)


def test_the_most_uncertain_candidates_are_chosen():
    torch.manual_seed(0)
    # Logits grow from 0 at the left to 31 at the right, so uncertain points lie left.
    logits = torch.arange(32.0).expand(3, 32, 32)
    coords = uncertain_points(logits, num_points=100, oversample_ratio=3.0, importance_sample_ratio=0.75)
    assert coords.shape == (3, 100, 2)
    # The best 75 of 300 uniform candidates are about the left quarter of the image.
    assert (coords[:, :75, 0] < 0.35).all()
    assert (coords[:, 75:, 0] > 0.5).any()


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_all_or_none_of_the_points_may_be_uncertain_ones(ratio):
    coords = uncertain_points(
        torch.randn(2, 8, 8), num_points=7, oversample_ratio=1.0, importance_sample_ratio=ratio
    )
    assert coords.shape == (2, 7, 2)


def test_without_masks_there_are_no_points():
    coords = uncertain_points(
        torch.zeros(0, 8, 8), num_points=7, oversample_ratio=3.0, importance_sample_ratio=0.75
    )
    assert coords.shape == (0, 7, 2)


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
