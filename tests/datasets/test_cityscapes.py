# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.preparing import Case, files, read_ids, rewrite
from helpers.raw_datasets.cityscapes import make_cityscapes
from PIL import Image

official = pytest.importorskip(
    "cityscapesscripts.preparation.createPanopticImgs", reason="needs cityscapesscripts (extra: cityscapes)"
)

CASE = Case(name="cityscapes", make=(make_cityscapes,))
TRUTH = "cityscapes/gtFine"
STEM = f"{TRUTH}/val/munster/munster_000000_000019_gtFine"
PNG = f"{TRUTH}/cityscapes_panoptic_val/munster_000000_000019_gtFine_panoptic.png"
JSON = f"{TRUTH}/cityscapes_panoptic_val.json"
BLOCKS = np.ix_([0, 22, 43], [0, 32, 64])  # where the 3 x 3 blocks of an image begin


@pytest.fixture
def root(tmp_path: Path) -> Path:
    CASE.write(tmp_path)
    return tmp_path


def test_polygons_become_train_ids(root: Path) -> None:
    assert CASE.run(root) == 0
    labels = np.array(Image.open(root / f"{STEM}_labelTrainIds.png"))
    assert labels.dtype == np.uint8
    # Road, car, car | group of cars, license plate (not drawn), out of roi | person, trailer (none), bicycle.
    assert labels[BLOCKS].tolist() == [[0, 13, 13], [13, 255, 255], [11, 255, 18]]


def test_instance_ids_become_segments_and_groups_crowds(root: Path) -> None:
    assert CASE.run(root) == 0
    # Classes that are not evaluated (trailer, out of roi, license plate) are void.
    assert read_ids(root / PNG)[BLOCKS].tolist() == [[7, 26001, 26002], [26, 0, 0], [24000, 0, 33012]]
    annotation = json.loads((root / JSON).read_text())["annotations"][1]
    assert annotation["image_id"] == "munster_000000_000019"
    found = {s["id"]: (s["category_id"], s["iscrowd"]) for s in annotation["segments_info"]}
    assert found == {7: (7, 0), 26: (26, 1), 24000: (24, 0), 26001: (26, 0), 26002: (26, 0), 33012: (33, 0)}


def test_png_and_json_are_those_of_the_official_script_over_the_whole_split(
    root: Path, tmp_path_factory, capsys: pytest.CaptureFixture[str]
) -> None:
    assert CASE.run(root, "--split", "train", "--jobs", "2") == 0
    other = tmp_path_factory.mktemp("official")
    official.convert2panoptic(str(root / TRUTH), str(other), setNames=["train"])
    name = "cityscapes_panoptic_train"
    assert files(root / TRUTH / name) == files(other / name)
    ours, theirs = (json.loads((folder / f"{name}.json").read_text()) for folder in (root / TRUTH, other))
    assert ours.pop("info") == {"description": "made by cmpf datasets prepare"}
    assert ours == theirs


def test_without_the_package_one_line_says_how_to_get_it_and_check_still_works(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert CASE.run(root, "--split", "val") == 0
    capsys.readouterr()
    monkeypatch.setitem(sys.modules, "cityscapesscripts.helpers.labels", None)
    assert CASE.check(root, "--split", "val") == 0
    assert CASE.run(root) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: Cityscapes is prepared by the package cityscapesscripts")
    assert "pip install 'cmpf[cityscapes]'" in error


def test_an_unknown_label_is_named_and_the_rest_done(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = root / f"{STEM}_polygons.json"
    path.write_text(path.read_text().replace('"road"', '"unicorn"'))
    assert CASE.run(root) == 1
    error = capsys.readouterr().err
    assert f"{path}: cityscapesscripts cannot convert it (Label 'unicorn' not known.)" in error
    assert len(list((root / TRUTH).rglob("*_labelTrainIds.png"))) == 4
    assert (root / JSON).exists()


def test_an_unknown_instance_id_is_named_and_no_json_file_written(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = root / f"{STEM}_instanceIds.png"
    rewrite(path, lambda values: np.where(values == 7, 99, values).astype(np.uint16))
    assert CASE.run(root) == 1
    error = capsys.readouterr().err
    assert f"{path}: cityscapesscripts cannot convert it (KeyError(" in error
    assert "99" in error
    assert not (root / JSON).exists()
    assert (root / TRUTH / "cityscapes_panoptic_train.json").exists()


def test_a_folder_without_annotations_is_refused(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (root / TRUTH / "val").rglob("*_polygons.json"):
        path.unlink()
    assert CASE.run(root) == 1
    expected = f"error: {root / TRUTH / 'val'}: no *_gtFine_polygons.json in it or below"
    assert expected in capsys.readouterr().err


def test_the_check_looks_at_every_kind_of_label(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert CASE.run(root) == 0
    rewrite(root / f"{STEM}_labelTrainIds.png", lambda values: values + np.uint8(6))
    (root / f"{STEM}_labelIds.png").unlink()
    rewrite(root / f"{STEM}_instanceIds.png", lambda values: values.astype(np.uint8))
    assert CASE.check(root) == 1
    out = capsys.readouterr().out
    # 13 + 6 = 19 is beyond the last class, and so is 18 + 6; 255 + 6 wraps to 5.
    assert f"  {root / STEM}_labelTrainIds.png: label 19, 24 in " in out
    assert (
        "munster_000000_000019_leftImg8bit.png: has no labels munster/munster_000000_000019_gtFine_labelIds.*"
        in out
    )
    assert f"{root / STEM}_instanceIds.png: has 8 bits, which end at 255" in out
