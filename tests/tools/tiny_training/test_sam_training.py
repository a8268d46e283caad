# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import pytest
import torch
from torch import nn

from tools.tiny_training.sam_training import boundary, mask_iou, mask_losses, train_sam
from tools.tiny_training.scenes import make_pool

POOL = make_pool(4, first_seed=0, label="test")


def half(columns: int) -> torch.Tensor:
    """A mask of the leftmost columns, (1, 64, 64)."""
    mask = torch.zeros(1, 64, 64)
    mask[:, :, :columns] = 1
    return mask


def test_the_boundary_is_two_pixels_wide_on_both_sides() -> None:
    found = boundary(half(32))[0, 10]
    assert found.nonzero()[:, 0].tolist() == [30, 31, 32, 33]


def test_a_right_mask_costs_nothing_and_a_wrong_one_more_than_an_undecided_one() -> None:
    right = (half(32) * 2 - 1) * 20
    logits = torch.stack([right, -right, torch.zeros_like(right)], dim=1)
    good, bad, undecided = mask_losses(logits, half(32))[0].tolist()
    assert good == pytest.approx(0, abs=1e-3)
    assert bad > undecided > good


def test_iou_of_shifted_halves() -> None:
    logits = torch.stack([half(48), half(16)], dim=1) - 0.5
    # 32 of 48 columns, 16 of 32 columns.
    assert mask_iou(logits, half(32))[0].tolist() == pytest.approx([32 / 48, 16 / 32])


def test_two_runs_of_one_seed_give_the_same_weights() -> None:
    def train() -> nn.Module:
        return train_sam(
            POOL, steps=2, batch_size=2, lr=1e-3, seed=3, every=0, on_snapshot=lambda step, model: None
        )

    first, second = train().state_dict(), train().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
