# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Tests of the SAM branch."""

from __future__ import annotations

import pytest
import torch
from helpers.modeling import random, tiny_sam_branch
from torch.nn import functional as F


@pytest.mark.parametrize("flat_levels", [0, 3])
def test_the_embedding_is_halved_and_encoded(flat_levels: int) -> None:
    branch = tiny_sam_branch(flat_levels=flat_levels)
    embedding = random("sam", 2, 10, 8, 8)
    features = branch(embedding)
    assert features.shape == (2, 16, 4, 4)
    torch.testing.assert_close(features, branch.encoder([F.relu(branch.reduction(embedding))])[0])


@pytest.mark.parametrize("flat_levels", [0, 3])
def test_a_batch_of_two_equals_two_batches_of_one(flat_levels: int) -> None:
    branch, embedding = tiny_sam_branch(flat_levels=flat_levels), random("sam", 2, 10, 8, 8)
    alone = torch.cat([branch(embedding[:1]), branch(embedding[1:])])
    torch.testing.assert_close(branch(embedding), alone, atol=1e-5, rtol=1e-5)


def test_the_published_layout_has_parameters_for_three_levels() -> None:
    correct, published = tiny_sam_branch(), tiny_sam_branch(flat_levels=3)
    assert correct.encoder.level_embedding.shape == (1, 16)
    assert published.encoder.level_embedding.shape == (3, 16)
    # 2 heads x 3 levels x 2 points x (x, y) = 24 offsets, against 8.
    assert correct.encoder.layers[0].attention.sampling_offsets.weight.shape == (8, 16)
    assert published.encoder.layers[0].attention.sampling_offsets.weight.shape == (24, 16)


def test_autocast_does_not_leave_float32() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert tiny_sam_branch()(random("sam", 1, 10, 8, 8).bfloat16()).dtype == torch.float32
