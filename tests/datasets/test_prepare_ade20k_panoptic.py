# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.preparing import Case, rewrite
from helpers.raw_datasets.ade20k import make_ade20k
from PIL import Image

CASE = Case(script="prepare_ade20k_panoptic", make=(make_ade20k,), raw="", target="")
FOLDER = "ADEChallengeData2016"
NAME = "ADE_val_00000001.png"
ROWS, COLUMNS = [0, 22, 43], [0, 32, 64]  # where the blocks begin


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_ade20k(tmp_path)
    return tmp_path


def test_instances_lie_over_stuff_and_the_rest_is_void(root: Path) -> None:
    assert CASE.run(root) == 0
    png = np.array(Image.open(root / FOLDER / "ade20k_panoptic_val" / NAME)).astype(int)
    ids = png[..., 0] + 256 * png[..., 1] + 65536 * png[..., 2]
    # Wall (class 0, stuff) 256 * 1; beds (7) 3 and 4: 256 * 8 + 3 and + 4; window (8) 7: 256 * 9 + 7; sky (2): 256 * 3.
    # Unlabeled pixels and the flag that no instance covers are void.
    assert ids[ROWS][:, COLUMNS].tolist() == [[256, 2051, 2052], [2311, 0, 768], [0, 768, 256]]


def test_the_json_file_tells_class_area_and_box_of_each_segment(root: Path) -> None:
    assert CASE.run(root) == 0
    content = json.loads((root / FOLDER / "ade20k_panoptic_val.json").read_text())
    assert content["images"][0] == {
        "id": "ADE_val_00000001",
        "file_name": "ADE_val_00000001.jpg",
        "height": 64,
        "width": 96,
    }
    entry = content["annotations"][0]
    assert (entry["image_id"], entry["file_name"]) == ("ADE_val_00000001", NAME)
    found = {s["id"]: (s["category_id"], s["area"], s["bbox"], s["iscrowd"]) for s in entry["segments_info"]}
    assert found == {
        256: (0, 22 * 32 + 21 * 32, [0, 0, 96, 64], 0),  # first block of row 0, last of row 2
        768: (2, 21 * 32 * 2, [32, 22, 64, 42], 0),
        2051: (7, 22 * 32, [32, 0, 32, 22], 0),
        2052: (7, 22 * 32, [64, 0, 32, 22], 0),
        2311: (8, 21 * 32, [0, 22, 32, 21], 0),
    }


def test_categories_are_the_150_classes_with_100_things(root: Path) -> None:
    assert CASE.run(root) == 0
    categories = json.loads((root / FOLDER / "ade20k_panoptic_val.json").read_text())["categories"]
    assert [c["id"] for c in categories] == list(range(150))
    assert sum(c["isthing"] for c in categories) == 100
    assert categories[7] == {"id": 7, "name": "bed", "isthing": 1}
    assert categories[2] == {"id": 2, "name": "sky", "isthing": 0}


def test_labels_and_instances_of_different_releases_are_refused(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (root / FOLDER / "annotations_instance").rglob("*.png"):
        rewrite(path, lambda values: np.where(values[..., :1] > 0, values + np.uint8([5, 0, 0]), values))
    assert CASE.run(root, "--split", "val") == 1
    error = capsys.readouterr().err
    assert "annotations and annotations_instance agree on 0 of 6,240 pixels" in error  # 3 x (2 x 704 + 672)
    assert not (root / FOLDER / "ade20k_panoptic_val.json").exists()


@pytest.mark.parametrize(
    ("folder", "change", "expected"),
    [
        ("annotations_instance", lambda v: np.uint8(101) + np.zeros_like(v), "instances of class [101]"),
        ("annotations_instance", lambda v: v[..., 0], "of kind L; expected 8-bit RGB"),
        ("annotations_instance", lambda v: v[:-1], "of size (63, 96), labels of size (64, 96)"),
        ("annotations", lambda v: v + np.uint8(1), "values up to 151; expected up to 150"),
    ],
)
def test_raw_images_that_do_not_fit_are_named(
    root: Path, capsys: pytest.CaptureFixture[str], folder: str, change, expected: str
) -> None:
    path = root / FOLDER / folder / "validation" / NAME
    rewrite(path, change)
    assert CASE.run(root) == 1
    error = capsys.readouterr().err
    assert f"{path}: " in error
    assert expected in error
