# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.preparing import Case, files, rewrite
from helpers.raw_datasets.pascal import make_pascal_voc
from PIL import Image

CASE = Case(script="prepare_pascal_voc", make=(make_pascal_voc,), raw="", target="")
DEVKIT, FOLDER = "VOCdevkit/VOC2012", "pascal_voc_d2"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    CASE.write(tmp_path)
    return tmp_path


def grid(path: Path) -> list[list[int]]:
    """The values of the 2 x 3 blocks of 32 x 32."""
    return np.array(Image.open(path))[::32, ::32].tolist()


def test_21_classes_keep_the_palette_indices_and_20_lose_the_background(root: Path) -> None:
    assert CASE.run(root) == 0
    name = "training/2008_000008.png"
    # Background, aeroplane, tv monitor | border, dog, background.
    assert grid(root / DEVKIT / "SegmentationClass/2008_000008.png") == [[0, 1, 20], [255, 12, 0]]
    assert grid(root / FOLDER / "annotations_pascal21" / name) == [[0, 1, 20], [255, 12, 0]]
    assert grid(root / FOLDER / "annotations_pascal20" / name) == [[255, 0, 19], [255, 11, 255]]
    for classes in (20, 21):
        labels = Image.open(root / FOLDER / f"annotations_pascal{classes}" / name)
        assert labels.mode == "L"


def test_images_of_each_split_lie_in_a_folder_without_taking_room(root: Path) -> None:
    assert CASE.run(root) == 0
    images = root / FOLDER / "images"
    assert sorted(path.name for path in (images / "training").iterdir()) == [
        "2008_000008.jpg",
        "2008_000015.jpg",
    ]
    assert sorted(path.name for path in (images / "validation").iterdir()) == [
        "2008_000002.jpg",
        "2008_000003.jpg",
    ]
    released = root / DEVKIT / "JPEGImages/2008_000003.jpg"
    assert released.samefile(images / "validation/2008_000003.jpg")


def test_the_devkit_may_lie_without_the_folder_around_it(root: Path, tmp_path_factory) -> None:
    assert CASE.run(root) == 0
    other = tmp_path_factory.mktemp("other")
    shutil.copytree(root / DEVKIT, other / "VOC2012")
    assert CASE.run(other) == 0
    assert files(other / FOLDER) == files(root / FOLDER)


def test_unknown_indices_are_refused_by_name(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = root / DEVKIT / "SegmentationClass/2008_000002.png"
    rewrite(path, lambda values: np.where(values == 12, 21, values).astype(np.uint8))
    assert CASE.run(root) == 1
    error = capsys.readouterr().err
    assert f"{path}: uint8 values [21]; expected bytes 0..20 and 255" in error


def test_a_listed_image_without_labels_is_named_and_the_rest_done(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = root / DEVKIT / "SegmentationClass/2008_000002.png"
    missing.unlink()
    assert CASE.run(root, "--split", "val") == 1
    assert f"{missing}: no such file" in capsys.readouterr().err
    assert [path.name for path in (root / FOLDER / "annotations_pascal20/validation").iterdir()] == [
        "2008_000003.png"
    ]


@pytest.mark.parametrize(
    ("text", "expected"), [("", "names no image"), ("a\nb\na\n", "names an image twice")]
)
def test_a_spoilt_list_is_refused(
    root: Path, capsys: pytest.CaptureFixture[str], text: str, expected: str
) -> None:
    listing = root / DEVKIT / "ImageSets/Segmentation/val.txt"
    listing.write_text(text)
    assert CASE.run(root) == 1
    assert f"error: {listing}: {expected}" in capsys.readouterr().err


def test_the_check_looks_at_both_kinds_of_labels(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert CASE.run(root) == 0
    # 20 is the tv monitor of 21 classes, but beyond the last of 20.
    path = root / FOLDER / "annotations_pascal20/validation/2008_000003.png"
    rewrite(path, lambda values: np.where(values == 19, 20, values).astype(np.uint8))
    assert CASE.check(root) == 1
    out = capsys.readouterr().out
    assert "labels of val, 21 classes: whole, 2 images" in out
    assert f"values out of range: 1\n    {path}: 20\n" in out
