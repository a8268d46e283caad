# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.own_dataset import change_pixels, copy_own_dataset
from PIL import Image

from cmpf.cli.datasets import dataset_name
from cmpf.data.datasets.validate import check_dataset


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return copy_own_dataset(tmp_path)


def findings(own: Path, more: str = "") -> list[str]:
    file = own / "fruit_semantic.yaml"
    file.write_text(file.read_text() + more)
    found = check_dataset(dataset_name(str(file)))
    return [f"{finding.mistake.name} {finding}".replace(f"{own}/", "") for finding in found]


def test_images_without_labels_and_labels_without_image_are_named(own: Path) -> None:
    (own / "images/val/bowl_01.jpg").unlink()
    (own / "labels/val/bowl_02.png").unlink()
    assert findings(own) == [
        "UNPAIRED labels/val/bowl_01.png: has no image bowl_01.* in images/val",
        "UNPAIRED images/val/bowl_02.jpg: has no labels bowl_02.* in labels/val",
    ]


def test_names_that_two_files_have_are_told(own: Path) -> None:
    Image.open(own / "images/val/bowl_01.jpg").save(own / "images/val/bowl_01.png")
    (found,) = findings(own)
    assert found.startswith("TWICE images/val: names that two files have: images/val/bowl_01.")
    assert {"bowl_01.png", "bowl_01.jpg"} == {
        part.rpartition("/")[2] for part in found.split(": ")[2].split(" and ")
    }


def test_folders_without_images_are_one_finding_each(own: Path) -> None:
    for image in (own / "labels/val").iterdir():
        image.unlink()
    (found,) = findings(own)
    assert found.startswith("MISSING labels/val: no images in it (looked for *.jpg, ")


def test_files_are_paired_by_their_suffixes(own: Path) -> None:
    for image in (own / "labels/val").iterdir():
        image.rename(image.with_name(f"{image.stem}_labels.png"))
    assert findings(own, "label_suffix: _labels\n") == []


def test_sizes_that_differ_are_named(own: Path) -> None:
    change_pixels(own / "labels/val/bowl_04.png", lambda pixels: pixels[1:])
    assert findings(own) == ["SIZE labels/val/bowl_04.png: has (95, 96) (H, W), the image has (96, 96)"]


def test_a_label_map_says_what_is_allowed(own: Path) -> None:
    for image in (own / "labels/val").iterdir():
        change_pixels(image, lambda pixels: pixels + np.uint8(10))
    mapped = "label_map: {10: 0, 11: 1, 12: 2, 13: 3, 14: 4}\n"  # 15, a wall, is left out
    found = findings(own, mapped)
    assert len(found) == 4
    assert all("allowed are one of 10, 11, 12, 13, 14 and the ignore label 255" in line for line in found)
    assert findings(own, "ignore_label: 15\n") == []
