# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.preparing import Case, rewrite
from helpers.raw_datasets import load_script
from helpers.raw_datasets.coco import make_coco, make_coco_stuff
from PIL import Image

CASE = Case(script="prepare_coco_stuff", make=(make_coco, make_coco_stuff), raw="", target="")


def test_ids_lose_their_gaps(tmp_path: Path) -> None:
    CASE.write(tmp_path)
    assert CASE.run(tmp_path) == 0
    labels = np.array(Image.open(tmp_path / "coco/stuffthingmaps_detectron2/val2017/000000000139.png"))
    # Blocks: person 0, car 2, wood 181 | banner 91, void 255, stop sign 12. Gaps among category ids below each:
    # wood is id 182, 11 gaps, the 171st class; banner id 92, 11 gaps, 92 - 1 - 11 = 80; stop sign id 13, 1 gap: 11.
    assert labels[::32, ::32].tolist() == [[0, 2, 170], [80, 255, 11]]


def test_all_171_categories_have_a_class_of_their_own() -> None:
    table = load_script("prepare_coco_stuff").TABLE
    assert sorted(set(table.tolist()) - {254, 255}) == list(range(171))
    assert (table == 254).sum() == 256 - 171 - 1
    assert table[255] == 255


def test_values_in_the_gaps_are_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    CASE.write(tmp_path)
    path = tmp_path / "coco/stuffthingmaps/val2017/000000000285.png"
    rewrite(path, lambda values: np.where(values == 2, 11, values).astype(np.uint8))
    assert CASE.run(tmp_path) == 1
    assert f"{path}: values [11] are of no category of COCO-Stuff" in capsys.readouterr().err


def test_maps_of_16_bits_are_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    CASE.write(tmp_path)
    path = tmp_path / "coco/stuffthingmaps/val2017/000000000285.png"
    rewrite(path, lambda values: values.astype(np.uint16))
    assert CASE.run(tmp_path) == 1
    assert f"{path}: uint16; the released maps have 8 bits" in capsys.readouterr().err
