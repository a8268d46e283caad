# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import numpy as np
import pytest
import torch

from cmpf.encoders.tiny import load_tiny_sam
from tools.tiny_training.sam_evaluation import best_overlap, grid_points, judge_sam
from tools.tiny_training.scenes import VALIDATION_SEEDS, make_pool


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
