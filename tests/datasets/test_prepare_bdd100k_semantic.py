# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from helpers.preparing import Case, files, rewrite
from helpers.raw_datasets import load_script
from helpers.raw_datasets.bdd100k import make_bdd100k
from PIL import Image

from cmpf.data import get_vocabulary

SCRIPT = "prepare_bdd100k_semantic"
CASE = Case(script=SCRIPT, make=(make_bdd100k,), raw="", target="")
MASKS_ONLY = Case(script=SCRIPT, make=(partial(make_bdd100k, bitmasks=False),), raw="", target="")
BITMASKS_ONLY = Case(script=SCRIPT, make=(partial(make_bdd100k, masks=False),), raw="", target="")
MASK = "bdd100k/labels/sem_seg/masks/val/7d06fefd-f7be05a6.png"


def test_released_masks_are_used_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    MASKS_ONLY.write(tmp_path)
    before = files(tmp_path)
    assert MASKS_ONLY.run(tmp_path) == 0
    assert "the release is used as it is" in capsys.readouterr().out
    assert files(tmp_path) == before
    assert MASKS_ONLY.check(tmp_path) == 0


def test_masks_made_from_bitmasks_are_those_of_the_release(tmp_path: Path) -> None:
    CASE.write(tmp_path)
    released = np.array(Image.open(tmp_path / MASK))
    BITMASKS_ONLY.write(tmp_path / "other")
    assert BITMASKS_ONLY.run(tmp_path / "other") == 0
    made = np.array(Image.open(tmp_path / "other" / MASK))
    # A grid of 3 x 3 blocks, rows start at 0, 22 and 43: road, road, car | car, person, car | sky, unlabeled, caravan.
    assert made[[0, 22, 43]][:, [0, 32, 64]].tolist() == [[0, 0, 13], [13, 11, 13], [10, 255, 255]]
    assert made.dtype == np.uint8
    assert np.array_equal(made, released)


def test_only_masks_that_are_missing_are_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    CASE.write(tmp_path)
    before = files(tmp_path)
    (tmp_path / MASK).unlink()
    assert CASE.check(tmp_path) == 1
    assert CASE.run(tmp_path) == 0
    assert "masks of val: 1 made, 1 were there, 0 failed" in capsys.readouterr().out
    assert set(files(tmp_path)) == set(before)
    assert CASE.check(tmp_path) == 0


def test_every_train_id_is_of_the_category_of_its_name() -> None:
    categories = get_vocabulary("bdd10k_40_panoptic_val").names
    chosen = load_script(SCRIPT).CATEGORY_OF
    assert tuple(categories[c - 1] for c in chosen) == get_vocabulary("bdd10k_val_sem_seg").names


def test_category_ids_in_place_of_train_ids_are_found_by_the_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    MASKS_ONLY.write(tmp_path)
    rewrite(tmp_path / MASK, lambda values: np.where(values == 13, 35, values).astype(np.uint8))
    assert MASKS_ONLY.check(tmp_path) == 1
    assert f"values out of range: 1\n    {tmp_path / MASK}: 35\n" in capsys.readouterr().out
