# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.preparing import Case, truncate
from helpers.raw_datasets.ade20k import make_ade20k
from pycocotools import mask as rle

CASE = Case(script="prepare_ade20k_instances", make=(make_ade20k,), raw="", target="")
FOLDER = "ADEChallengeData2016"
JSON = f"{FOLDER}/ade20k_instance_val.json"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_ade20k(tmp_path)
    return tmp_path


def test_each_instance_is_an_annotation_with_a_mask(root: Path) -> None:
    assert CASE.run(root, "--jobs", "2") == 0
    content = json.loads((root / JSON).read_text())
    first = [a for a in content["annotations"] if a["image_id"] == "ADE_val_00000001"]
    # Two beds side by side above, a window below them at the left.
    assert [(a["category_id"], a["area"], a["bbox"]) for a in first] == [
        (7, 22 * 32, [32, 0, 32, 22]),
        (7, 22 * 32, [64, 0, 32, 22]),
        (8, 21 * 32, [0, 22, 32, 21]),
    ]
    mask = rle.decode(first[0]["segmentation"])
    expected = np.zeros((64, 96), dtype=np.uint8)
    expected[:22, 32:64] = 1
    assert np.array_equal(mask, expected)
    assert [a["id"] for a in content["annotations"]] == list(range(1, 10))
    assert CASE.check(root) == 0


def test_categories_are_the_things_by_the_index_of_their_class(root: Path) -> None:
    assert CASE.run(root) == 0
    categories = json.loads((root / JSON).read_text())["categories"]
    assert len(categories) == 100
    assert categories[:3] == [
        {"id": 7, "name": "bed"},
        {"id": 8, "name": "window"},
        {"id": 10, "name": "cabinet"},
    ]
    assert categories[-1] == {"id": 149, "name": "flag"}


def test_the_file_is_written_only_when_every_image_is_whole(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = root / FOLDER / "annotations_instance/validation/ADE_val_00000002.png"
    whole = path.read_bytes()
    truncate(path)
    assert CASE.run(root) == 1
    assert f"{path}: damaged" in capsys.readouterr().err
    assert not (root / JSON).exists()
    assert (root / FOLDER / "ade20k_instance_train.json").exists()
    path.write_bytes(whole)
    assert CASE.run(root) == 0
    assert f"{FOLDER}/ade20k_instance_train.json: was there" in capsys.readouterr().out
    assert (root / JSON).exists()


def test_overwrite_makes_the_file_again(root: Path) -> None:
    assert CASE.run(root) == 0
    before = (root / JSON).read_text()
    (root / JSON).write_text("{}")
    assert CASE.run(root) == 0
    assert (root / JSON).read_text() == "{}"
    assert CASE.run(root, "--overwrite") == 0
    assert (root / JSON).read_text() == before


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda c: c["annotations"][0].update(category_id=6), "unknown categories: 1"),
        (lambda c: c["annotations"][1].update(id=1), "doubled annotation ids: 1"),
        (lambda c: c["images"][0].update(width=95), "sizes that differ from the image's: 1"),
        (lambda c: c["images"].pop(), "images that the JSON file lacks: 1"),
    ],
)
def test_the_check_finds_issues_of_the_file(
    root: Path, capsys: pytest.CaptureFixture[str], change, expected: str
) -> None:
    assert CASE.run(root) == 0
    content = json.loads((root / JSON).read_text())
    change(content)
    (root / JSON).write_text(json.dumps(content))
    assert CASE.check(root) == 1
    assert expected in capsys.readouterr().out
