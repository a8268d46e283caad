# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What the tiny encoders can do."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cmpf.encoders.tiny import load_tiny_clip, load_tiny_sam
from cmpf.encoders.tiny_training.evaluation import (
    Naming,
    best_overlap,
    category_texts,
    grid_points,
    judge_sam,
    name_regions,
    naming_table,
)
from cmpf.encoders.tiny_training.scenes import VALIDATION_SEEDS, make_pool
from cmpf.shapeworld import CATEGORIES

NAMES = [category.name for category in CATEGORIES]


def test_the_table_counts_by_kind_and_a_vanished_mask_is_wrong() -> None:
    truth = torch.tensor([NAMES.index(n) for n in ("red circle", "red circle", "striped ring", "sky")])
    named = torch.tensor([NAMES.index("red circle"), NAMES.index("red bar"), -1, NAMES.index("sky")])
    rows = naming_table(Naming(truth, named))
    assert rows["regions"] == 50  # the first circle and the sky, of four
    assert rows["things"] == pytest.approx(100 / 3)
    assert rows["unseen"] == 0  # the ring
    assert rows["stuff"] == 100
    assert rows["material of things"] == pytest.approx(200 / 3)  # "red bar" has the right one
    assert rows["shape of things"] == pytest.approx(100 / 3)
    assert rows["vanished masks"] == 25


def test_every_word_has_one_unit_row() -> None:
    matrix, class_of_row = category_texts(load_tiny_clip())
    assert matrix.shape == (sum(len(category.words) for category in CATEGORIES), 128)
    assert torch.allclose(matrix.norm(dim=1), torch.ones(()), atol=1e-5)
    assert class_of_row.unique_consecutive().tolist() == list(range(54))


def test_the_shipped_clip_names_most_regions_of_unseen_images() -> None:
    naming = name_regions(
        load_tiny_clip(), make_pool(12, first_seed=VALIDATION_SEEDS + 500_000, label="test")
    )
    # 12 scenes are about 75 regions; the card gives the figures on 1,000 scenes.
    assert float((naming.named == naming.truth).float().mean()) > 0.7


def test_the_grids_points_are_the_middles_of_its_cells() -> None:
    # 256 / 2 = 128 wide cells
    assert grid_points(2).tolist() == [[64, 64], [192, 64], [64, 192], [192, 192]]


def test_the_best_proposal_counts() -> None:
    true = torch.zeros(1, 4, 4, dtype=torch.bool)
    true[0, :2] = True
    proposals = torch.zeros(2, 4, 4, dtype=torch.bool)
    proposals[0, 0], proposals[1, :3] = True, True
    # 4 of 8 pixels, 8 of 12 pixels.
    assert best_overlap(true, proposals) == pytest.approx([8 / 12])
    assert np.array_equal(best_overlap(true, proposals[:0]), [0])


def test_the_shipped_sam_finds_most_things_of_unseen_images() -> None:
    rows = judge_sam(
        load_tiny_sam(), make_pool(8, first_seed=VALIDATION_SEEDS + 500_000, label="test"), seed=0
    )
    # 8 scenes are about 50 segments; the card gives the figures on 1,000 scenes.
    assert rows["IoU best of 3, all"] > 60
    assert rows["found by proposals, things"] > 60
