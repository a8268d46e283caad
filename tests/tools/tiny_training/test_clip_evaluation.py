# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import pytest
import torch

from cmpf.encoders.tiny import load_tiny_clip
from cmpf.shapeworld import CATEGORIES
from tools.tiny_training.clip_evaluation import Naming, category_texts, name_regions, naming_table
from tools.tiny_training.scenes import VALIDATION_SEEDS, make_pool

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
