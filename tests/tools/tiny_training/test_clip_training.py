# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmpf.encoders.tiny import build_tiny_clip_model
from cmpf.shapeworld import CATEGORIES
from tools.tiny_training.clip_training import NOT_A_THING, ClipObjective, text_to_regions, train_clip
from tools.tiny_training.scenes import BatchSampler, make_pool

POOL = make_pool(4, first_seed=0, label="test")


def naive_text_to_regions(logits: Tensor, labels: Tensor) -> float:
    losses = []
    for text in range(logits.shape[1]):
        right = [n for n, label in enumerate(labels.tolist()) if label == text]
        if right:
            shares = F.log_softmax(logits[:, text], dim=0)
            losses.append(-sum(float(shares[n]) for n in right) / len(right))
    return sum(losses) / len(losses)


def test_all_regions_of_a_class_are_right_for_its_text() -> None:
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 0, 2, 2, 2, 3])  # no region of class 1
    assert float(text_to_regions(logits, labels)) == pytest.approx(
        naive_text_to_regions(logits, labels), rel=1e-5
    )


def test_stuff_has_neither_material_nor_shape() -> None:
    objective = ClipObjective(build_tiny_clip_model(), seed=0)
    names = [category.name for category in CATEGORIES]
    categories = torch.tensor([names.index("sky"), names.index("yellow triangle")])
    own, material, shape = objective.labels(categories)
    assert own.tolist() == categories.tolist()
    assert material.tolist() == [NOT_A_THING, 1]  # red, yellow, ...
    assert shape.tolist() == [NOT_A_THING, 3]  # circle, bar, ring, triangle, ...


def test_every_part_of_the_model_that_inference_uses_gets_a_gradient() -> None:
    torch.manual_seed(0)
    model = build_tiny_clip_model().train()
    losses = ClipObjective(model, seed=0)(model, BatchSampler(POOL, batch_size=2, seed=0).draw())
    torch.stack(list(losses.values())).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert all(loss.isfinite() for loss in losses.values())


def test_two_runs_of_one_seed_give_the_same_weights_and_snapshots_come_when_asked() -> None:
    snapshots: list[int] = []

    def train() -> nn.Module:
        return train_clip(
            POOL,
            steps=2,
            batch_size=2,
            lr=1e-3,
            seed=3,
            every=1,
            on_snapshot=lambda step, model: snapshots.append(step),
        )

    first, second = train().state_dict(), train().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    # The last step's model is returned, no snapshot.
    assert snapshots == [1, 1]
