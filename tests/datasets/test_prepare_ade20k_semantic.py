# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.preparing import Case, rewrite
from helpers.raw_datasets.ade20k import make_ade20k
from PIL import Image

CASE = Case(script="prepare_ade20k_semantic", make=(make_ade20k,), raw="", target="")
FOLDER = "ADEChallengeData2016"
NAME = "validation/ADE_val_00000001.png"


def test_labels_count_from_0_and_other_is_255(tmp_path: Path) -> None:
    CASE.write(tmp_path)
    assert CASE.run(tmp_path) == 0
    raw = np.array(Image.open(tmp_path / FOLDER / "annotations" / NAME))
    labels = np.array(Image.open(tmp_path / FOLDER / "annotations_detectron2" / NAME))
    # A grid of 3 x 3 blocks, rows start at 0, 22 and 43: 1, 8, 8 | 9, 0, 3 | 150, 3, 1.
    assert raw[[0, 22, 43]][:, [0, 32, 64]].tolist() == [[1, 8, 8], [9, 0, 3], [150, 3, 1]]
    assert labels[[0, 22, 43]][:, [0, 32, 64]].tolist() == [[0, 7, 7], [8, 255, 2], [149, 2, 0]]
    assert np.array_equal(labels, np.where(raw == 0, 255, raw.astype(int) - 1))


def test_labels_above_150_are_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    CASE.write(tmp_path)
    path = tmp_path / FOLDER / "annotations" / NAME
    rewrite(path, lambda values: values + np.uint8(1))
    assert CASE.run(tmp_path) == 1
    assert f"{path}: uint8 values up to 151; expected bytes up to 150" in capsys.readouterr().err
