# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from pathlib import Path

import numpy as np
from helpers.raw_datasets.common import photo, write_png
from preparation import Fault, check_labels


def faults(folder: Path, labels: np.ndarray, *, bits: int = 8, dtype: type = np.uint8) -> list[Fault]:
    photo(folder / "a.jpg", seed=0, height=4, width=6)
    write_png(folder / "a.png", labels, dtype)
    images, pictures = {"a": folder / "a.jpg"}, {"a": folder / "a.png"}
    found = check_labels(title="labels", images=images, labels=pictures, allowed={0, 1, 255}, bits=bits)
    assert found.examine is not None
    return [*found.faults, *(fault for item in found.items for fault in found.examine(item))]


def test_labels_that_fit_have_no_faults(tmp_path: Path) -> None:
    labels = np.array([[0, 1, 255] * 2] * 4)
    assert faults(tmp_path, labels) == []
    assert faults(tmp_path, labels, bits=16, dtype=np.uint16) == []


def test_several_faults_of_one_picture_are_all_named(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    assert faults(tmp_path, np.full((4, 5), 300), dtype=np.uint16) == [
        Fault("sizes that differ from the picture's", f"{path}: 4 x 5 (H x W), picture 4 x 6"),
        Fault("wrong bit depth", f"{path}: uint16, expected uint8"),
        Fault("values out of range", f"{path}: 300"),
    ]


def test_of_many_wrong_values_ten_are_named(tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, np.arange(24).reshape(4, 6))
    assert fault.name == f"{tmp_path / 'a.png'}: 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, ..."


def test_files_without_partner_are_named_on_both_sides(tmp_path: Path) -> None:
    images, labels = {"a": tmp_path / "a.jpg"}, {"b": tmp_path / "b.png"}
    found = check_labels(title="labels", images=images, labels=labels, allowed={0})
    assert list(found.faults) == [
        Fault("pictures without label pictures", str(tmp_path / "a.jpg")),
        Fault("label pictures without picture", str(tmp_path / "b.png")),
    ]
    assert (found.pictures, list(found.items)) == (1, [])
