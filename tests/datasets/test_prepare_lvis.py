# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.preparing import Case
from helpers.raw_datasets.coco import make_coco, make_lvis

CASE = Case(script="prepare_lvis", make=(make_coco, make_lvis), raw="", target="")
JSON = "lvis/lvis_v1_val.json"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    CASE.write(tmp_path)
    return tmp_path


def test_the_release_is_used_as_it_is(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert CASE.run(root) == 0
    assert "the release is used as it is; verify it with --check" in capsys.readouterr().out
    assert CASE.check(root, "--jobs", "2") == 0
    assert "instances of val: whole, 3 images" in capsys.readouterr().out


def test_images_are_looked_for_where_their_address_says(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = root / "coco/train2017/000000000009.jpg"
    missing.unlink()
    assert CASE.check(root) == 1
    out = capsys.readouterr().out
    assert "missing images: 1" in out
    assert str(missing) in out


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda c: c["categories"].pop(), "1202 categories, ids [1]..[1202]; expected 1..1203"),
        (lambda c: c["categories"][6].pop("frequency"), "categories without frequency r, c or f: 1"),
        (lambda c: c["images"][0].pop("neg_category_ids"), "images without neg_category_ids: 1"),
        (
            lambda c: c["images"][0].pop("not_exhaustive_category_ids"),
            "images without not_exhaustive_category_ids: 1",
        ),
        (lambda c: c["annotations"][0].update(category_id=1204), "category id 1204"),
        (lambda c: c["annotations"][0].update(segmentation=[[0, 0, 1, 1]]), "masks that are wrong: 1"),
        (lambda c: c["annotations"][0].update(image_id=77), "annotations without image: 1"),
        (lambda c: c["images"][0].update(height=65), "65 x 96 (H x W), image 64 x 96"),
    ],
)
def test_the_check_finds_issues_of_the_file(
    root: Path, capsys: pytest.CaptureFixture[str], change, expected: str
) -> None:
    content = json.loads((root / JSON).read_text())
    change(content)
    (root / JSON).write_text(json.dumps(content))
    assert CASE.check(root, "--split", "val") == 1
    assert expected in capsys.readouterr().out


def test_a_file_without_addresses_is_refused(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads((root / JSON).read_text())
    del content["images"][0]["coco_url"]
    (root / JSON).write_text(json.dumps(content))
    assert CASE.check(root) == 1
    assert f"error: {root / JSON}: not in COCO's form (KeyError('coco_url'))" in capsys.readouterr().err
