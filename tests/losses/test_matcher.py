# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Matching of queries with targets, and the points at which masks are compared."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from helpers.modeling import random_targets
from torch import Tensor

from benchmarks.published import training as published
from cmpf.errors import TrainingError
from cmpf.losses import HungarianMatcher, matcher
from cmpf.losses.matcher import Matches, TargetMasks, sample_points, uncertain_points, uniform_points
from cmpf.types import Targets

MATCHER = HungarianMatcher(class_weight=2.0, mask_weight=5.0, dice_weight=5.0, num_points=64)


def match(logits: Tensor, masks: Tensor, targets: list[Targets]) -> Matches:
    return MATCHER(logits, masks, targets, TargetMasks([target["masks"] for target in targets]))


@pytest.mark.parametrize("floats", [matcher.CPU_FLOATS, 1], ids=["all points at once", "one by one"])
def test_every_head_and_image_is_matched_as_by_the_published_loop(floats, monkeypatch):
    monkeypatch.setattr(matcher, "CPU_FLOATS", floats)
    torch.manual_seed(0)
    logits, masks = torch.randn(4, 3, 6, 5), torch.randn(4, 3, 6, 8, 8) * 3
    targets = random_targets((3, 20, 16), (0, 8, 8), (6, 9, 31), (8, 12, 12))
    coords = torch.rand(4, 64, 2)
    monkeypatch.setattr(matcher, "uniform_points", lambda *_: coords)
    matches = match(logits, masks, targets)
    assert matches.image.tolist() == [0] * 3 + [2] * 6 + [3] * 6  # 8 targets, but only 6 queries
    first_target = [0, 3, 3, 9]
    for head in range(3):
        given = {"pred_logits": logits[:, head], "pred_masks": masks[:, head]}
        draw = partial(next, iter(coords[:, None]))
        wanted = published.match(
            SimpleNamespace(matcher=MATCHER), given, targets, lambda *_, draw=draw: draw()
        )
        for image in (0, 2, 3):
            pairs = matches.image == image
            target = matches.target[head, pairs] - first_target[image]
            found = set(zip(matches.query[head, pairs].tolist(), target.tolist(), strict=True))
            assert found == set(zip(*(x.tolist() for x in wanted[image]), strict=True))


def test_the_mask_decides_between_queries_of_equal_class():
    left = torch.zeros(8, 8, dtype=torch.bool)
    left[:, :4] = True
    target: Targets = {"labels": torch.tensor([0, 0]), "masks": torch.stack([left, ~left])}
    maps = torch.stack([~left, left]).float() * 20 - 10  # query 0 shows the right half
    matches = match(torch.zeros(1, 1, 2, 2), maps[None, None], [target])
    assert matches.query.tolist() == [[1, 0]]
    assert matches.target.tolist() == [[0, 1]]


def test_the_class_decides_between_queries_of_equal_masks():
    target: Targets = {"labels": torch.tensor([1]), "masks": torch.ones(1, 4, 4, dtype=torch.bool)}
    logits = torch.tensor([[[[5.0, 0.0, 0.0], [0.0, 5.0, 0.0], [0.0, 0.0, 5.0]]]])
    assert match(logits, torch.zeros(1, 1, 3, 4, 4), [target]).query.tolist() == [[1]]


def test_a_batch_without_targets_has_no_pairs():
    matches = match(torch.randn(2, 3, 5, 4), torch.randn(2, 3, 5, 4, 4), random_targets((0, 8, 8), (0, 9, 9)))
    assert matches.image.shape == (0,)
    assert matches.query.shape == matches.target.shape == (3, 0)


def test_there_is_one_copy_from_the_device_to_the_host(monkeypatch):
    copies: list[object] = []
    plain = Tensor.cpu
    monkeypatch.setattr(Tensor, "cpu", lambda self: copies.append(self) or plain(self))
    match(
        torch.randn(3, 10, 5, 5), torch.randn(3, 10, 5, 8, 8), random_targets((3, 8, 8), (2, 8, 8), (1, 4, 4))
    )
    assert len(copies) == 1


@pytest.mark.parametrize(
    ("term", "bad"), [("class", "logits"), ("mask", "masks")], ids=["class logits", "mask logits"]
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_cost_that_is_not_finite_names_its_term_head_and_image(term, bad, value):
    tensors = {"logits": torch.randn(2, 3, 5, 5), "masks": torch.randn(2, 3, 5, 8, 8)}
    tensors[bad][1, 2, 3] = value  # of one query
    with pytest.raises(
        TrainingError, match=f"the {term} cost of prediction head 2 is not finite for image 1"
    ):
        match(tensors["logits"], tensors["masks"], random_targets((2, 8, 8), (2, 8, 8)))


def test_an_image_without_targets_may_have_any_logits():
    logits = torch.randn(2, 1, 5, 5)
    logits[0] = float("nan")
    matches = match(logits, torch.randn(2, 1, 5, 8, 8), random_targets((0, 8, 8), (2, 8, 8)))
    assert matches.image.tolist() == [1, 1]


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
