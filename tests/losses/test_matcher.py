# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Matching of queries with targets."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from benchmarks.published import training as published
from cmpf.errors import TrainingError
from cmpf.losses import HungarianMatcher, matcher
from cmpf.losses.matcher import Matches
from cmpf.losses.points import TargetMasks
from cmpf.types import Targets

MATCHER = HungarianMatcher(class_weight=2.0, mask_weight=5.0, dice_weight=5.0, num_points=64)


def targets_of(sizes: list[tuple[int, int, int]], classes: int = 4) -> list[Targets]:
    generator = torch.Generator().manual_seed(1)
    return [
        {
            "labels": torch.randint(classes, (n,), generator=generator),
            "masks": torch.rand(n, h, w, generator=generator) > 0.5,
        }
        for n, h, w in sizes
    ]


def match(logits: Tensor, masks: Tensor, targets: list[Targets]) -> Matches:
    return MATCHER(logits, masks, targets, TargetMasks([target["masks"] for target in targets]))


def test_every_head_and_image_is_matched_as_by_the_published_loop(monkeypatch):
    torch.manual_seed(0)
    logits, masks = torch.randn(4, 3, 6, 5), torch.randn(4, 3, 6, 8, 8) * 3
    targets = targets_of([(3, 20, 16), (0, 8, 8), (6, 9, 31), (8, 12, 12)])
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
    matches = match(torch.randn(2, 3, 5, 4), torch.randn(2, 3, 5, 4, 4), targets_of([(0, 8, 8), (0, 9, 9)]))
    assert matches.image.shape == (0,)
    assert matches.query.shape == matches.target.shape == (3, 0)


def test_there_is_one_copy_from_the_device_to_the_host(monkeypatch):
    copies: list[object] = []
    plain = Tensor.cpu
    monkeypatch.setattr(Tensor, "cpu", lambda self: copies.append(self) or plain(self))
    match(
        torch.randn(3, 10, 5, 5), torch.randn(3, 10, 5, 8, 8), targets_of([(3, 8, 8), (2, 8, 8), (1, 4, 4)])
    )
    assert len(copies) == 1


@pytest.mark.parametrize(
    ("term", "bad"), [("class", "logits"), ("mask", "masks")], ids=["class logits", "mask logits"]
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_cost_that_is_not_finite_names_its_term_head_and_image(term, bad, value):
    tensors = {"logits": torch.randn(2, 3, 5, 5), "masks": torch.randn(2, 3, 5, 8, 8)}
    tensors[bad][1, 2] = value
    with pytest.raises(
        TrainingError, match=f"the {term} cost of prediction head 2 is not finite for image 1"
    ):
        match(tensors["logits"], tensors["masks"], targets_of([(2, 8, 8), (2, 8, 8)]))


def test_an_image_without_targets_may_have_any_logits():
    logits = torch.randn(2, 1, 5, 5)
    logits[0] = float("nan")
    matches = match(logits, torch.randn(2, 1, 5, 8, 8), targets_of([(0, 8, 8), (2, 8, 8)]))
    assert matches.image.tolist() == [1, 1]
