# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Matching and losses of all heads, with their gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.harness import Pair
from benchmarks.published import losses as published_losses
from benchmarks.setting import Setting, blobs
from cmpf.losses import HungarianMatcher, SetCriterion
from cmpf.types import DecoderOutput, Targets

HEADS = 10


def losses(setting: Setting) -> Pair:
    """Ten heads, two images of 768 x 768 with 20 and 12 targets, 133 classes, 12,544 points."""
    queries, side, points = setting.pick((250, 768, 12544), (40, 128, 512))
    criterion = build_criterion(133, points)
    counts = (20, 12)
    targets: list[Targets] = [
        {
            "labels": torch.arange(count, device=setting.device) * 5,
            "masks": blobs(setting, count, (side, side), seed=count) > 0,
        }
        for count in counts
    ]
    logits = setting.random(2, HEADS * queries, 134).requires_grad_()
    masks = torch.stack([blobs(setting, HEADS * queries, (side // 4, side // 4), seed=i) for i in range(2)])
    masks.requires_grad_()

    def outputs() -> DecoderOutput:
        """As a decoder makes them: the heads' predictions are parts of one product."""
        heads = zip(*((2 * x).chunk(HEADS, dim=1) for x in (logits, masks)), strict=True)
        *earlier, last = ({"pred_logits": a, "pred_masks": b} for a, b in heads)
        return {**last, "aux_outputs": earlier}  # type: ignore[typeddict-item]

    def call(found: dict[str, Tensor]) -> Any:
        return found, torch.autograd.grad(sum(found.values()), [logits, masks])  # type: ignore[arg-type]

    def ours() -> Any:
        return call(criterion(outputs(), targets))

    def published(draw: published_losses.Draw = published_losses.draw_uniform) -> Any:
        return call(published_losses.losses(criterion, outputs(), targets, draw=draw))

    def ours_fixed() -> Any:
        with same_places():
            return ours()

    return Pair(
        ours=ours,
        published=published,
        compare=(ours_fixed, lambda: published(fixed_places)),
        tolerance=1e-3,
    )


def build_criterion(classes: int, points: int) -> SetCriterion:
    """The published weights and ratios."""
    return SetCriterion(
        num_classes=classes,
        matcher=HungarianMatcher(class_weight=2.0, mask_weight=5.0, dice_weight=5.0, num_points=points),
        class_weight=2.0,
        mask_weight=5.0,
        dice_weight=5.0,
        void_weight=0.1,
        num_points=points,
        oversample_ratio=3.0,
        importance_ratio=0.75,
    )


def fixed_places(count: int, points: int, device: torch.device) -> Tensor:
    """In place of a random draw: the same places in every call and for every mask."""
    return _table(points).to(device).expand(count, -1, -1)


@contextmanager
def same_places() -> Iterator[None]:
    """Inside, our matching and losses look where the published ones do with `fixed_places`."""
    with (
        patch("cmpf.losses.matcher.uniform_points", fixed_places),
        patch("cmpf.losses.points.uniform_points", fixed_places),
    ):
        yield


@lru_cache(maxsize=8)
def _table(points: int) -> Tensor:
    return torch.rand(1, points, 2, generator=torch.Generator().manual_seed(points))
