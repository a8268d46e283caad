# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cmpf.data.datasets.validate.files import LabelCheck, image_size
from cmpf.data.datasets.validate.findings import Findings


def label_messages(
    path: Path, *, num_classes: int = 4, ignore_label: int = 255, label_map: dict[int, int] | None = None
) -> list[str]:
    findings = Findings()
    check = LabelCheck(
        num_classes=num_classes, ignore_label=ignore_label, label_map=label_map, findings=findings
    )
    check(path, (2, 3))
    return [f"{finding.mistake.name} {finding.message}" for finding in findings.found]


def write(path: Path, values: list[list[int]], dtype: type = np.uint8) -> Path:
    Image.fromarray(np.array(values, dtype=dtype)).save(path)
    return path


def test_labels_in_range_are_right(tmp_path: Path) -> None:
    assert label_messages(write(tmp_path / "a.png", [[0, 1, 2], [3, 255, 0]])) == []
    deep = write(tmp_path / "b.png", [[0, 1, 846], [3, 65535, 0]], np.uint16)
    assert label_messages(deep, num_classes=847, ignore_label=65535) == []


def test_labels_out_of_range_are_counted(tmp_path: Path) -> None:
    wrong = write(tmp_path / "a.png", [[0, 7, 7], [3, 255, 9]])
    assert label_messages(wrong) == [
        "LABEL label 7, 9 in 3 pixels; allowed are 0..3 and the ignore label 255"
    ]


def test_labels_that_count_from_1_get_a_hint(tmp_path: Path) -> None:
    assert label_messages(write(tmp_path / "a.png", [[1, 2, 3], [4, 4, 255]])) == [
        "LABEL label 4 in 2 pixels; allowed are 0..3 and the ignore label 255; "
        "are classes counted from 1? Then label_map: {1: 0, ..., 4: 3}"
    ]


def test_another_value_for_unlabeled_pixels_gets_a_hint(tmp_path: Path) -> None:
    wrong = write(tmp_path / "a.png", [[0, 2, 3], [1, 255, 0]])
    assert label_messages(wrong, ignore_label=4) == [
        "LABEL label 255 in 1 pixels; allowed are 0..3 and the ignore label 4; "
        "is it for unlabeled pixels? Then ignore_label: 255"
    ]


def test_many_wrong_labels_are_not_all_named(tmp_path: Path) -> None:
    wrong = write(tmp_path / "a.png", [[10, 11, 12], [13, 14, 15]])
    (message,) = label_messages(wrong, num_classes=2)
    assert message.startswith("LABEL label 10, 11, 12, 13, 14 and 1 more in 6 pixels")


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("RGBA", 4), ("LA", 2)])
def test_colors_are_no_labels(tmp_path: Path, mode: str, channels: int) -> None:
    Image.new(mode, (3, 2)).save(tmp_path / "a.png")
    assert label_messages(tmp_path / "a.png") == [
        f"BIT_DEPTH has {channels} channels ({mode}); a label map has one channel of class numbers"
    ]


def test_floating_point_values_jpegs_and_too_few_bits_are_wrong_depths(tmp_path: Path) -> None:
    Image.new("F", (3, 2)).save(tmp_path / "a.tif")
    (message,) = label_messages(tmp_path / "a.tif")
    assert message.startswith("BIT_DEPTH has floating-point values (F)")
    Image.new("L", (3, 2)).save(tmp_path / "a.jpg")
    assert label_messages(tmp_path / "a.jpg") == ["BIT_DEPTH is a JPEG, which changes the class numbers"]
    assert label_messages(write(tmp_path / "b.png", [[0, 1, 2], [3, 4, 5]]), num_classes=847) == [
        "BIT_DEPTH has 8 bits, which end at 255; labels of this dataset go up to 846"
    ]


def test_values_beyond_16_bits_are_a_wrong_depth(tmp_path: Path) -> None:
    (message,) = label_messages(write(tmp_path / "a.tif", [[0, 1, 70000], [0, 0, 0]], np.int32))
    assert message.startswith("BIT_DEPTH values 0..70000 do not fit 16 bits")


def test_images_that_are_all_unlabeled_are_empty(tmp_path: Path) -> None:
    assert label_messages(write(tmp_path / "a.png", [[255, 255, 255], [255, 255, 255]])) == [
        "EMPTY every pixel has the ignore label 255: nothing to learn"
    ]


def test_damaged_and_missing_label_maps_are_told(tmp_path: Path) -> None:
    assert label_messages(tmp_path / "a.png") == ["MISSING no such label map"]
    whole = write(tmp_path / "b.png", np.random.default_rng(0).integers(0, 4, (200, 300)).tolist())
    whole.write_bytes(whole.read_bytes()[:2000])
    (message,) = label_messages(whole)
    assert message.startswith("DAMAGED damaged label map")


def test_the_size_of_an_image_is_that_of_the_upright_one(tmp_path: Path) -> None:
    image = Image.new("RGB", (30, 20))
    exif = image.getexif()
    exif[0x0112] = 6  # turn it by 90 degrees
    image.save(tmp_path / "a.jpg", exif=exif)
    findings = Findings()
    assert image_size(tmp_path / "a.jpg", findings) == (30, 20)
    assert image_size(tmp_path / "b.jpg", findings) is None
    assert [finding.message for finding in findings.found] == ["no such image"]
