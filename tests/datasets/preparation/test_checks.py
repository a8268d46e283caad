# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from pathlib import Path

import numpy as np
from helpers.raw_datasets.common import photo, write_png
from preparation import Issue, check_labels


def issues(folder: Path, labels: np.ndarray, *, bits: int = 8, dtype: type = np.uint8) -> list[Issue]:
    photo(folder / "a.jpg", seed=0, height=4, width=6)
    write_png(folder / "a.png", labels, dtype)
    images, labels = {"a": folder / "a.jpg"}, {"a": folder / "a.png"}
    found = check_labels(title="labels", images=images, labels=labels, allowed={0, 1, 255}, bits=bits)
    assert found.examine is not None
    return [*found.issues, *(issue for item in found.items for issue in found.examine(item))]


def test_labels_that_fit_have_no_issues(tmp_path: Path) -> None:
    labels = np.array([[0, 1, 255] * 2] * 4)
    assert issues(tmp_path, labels) == []
    assert issues(tmp_path, labels, bits=16, dtype=np.uint16) == []


def test_several_issues_of_one_image_are_all_named(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    assert issues(tmp_path, np.full((4, 5), 300), dtype=np.uint16) == [
        Issue("sizes that differ from the image's", f"{path}: 4 x 5 (H x W), image 4 x 6"),
        Issue("wrong bit depth", f"{path}: uint16, expected uint8"),
        Issue("values out of range", f"{path}: 300"),
    ]


def test_of_many_wrong_values_ten_are_named(tmp_path: Path) -> None:
    (issue,) = issues(tmp_path, np.arange(24).reshape(4, 6))
    assert issue.name == f"{tmp_path / 'a.png'}: 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, ..."


def test_files_without_partner_are_named_on_both_sides(tmp_path: Path) -> None:
    images, labels = {"a": tmp_path / "a.jpg"}, {"b": tmp_path / "b.png"}
    found = check_labels(title="labels", images=images, labels=labels, allowed={0})
    assert list(found.issues) == [
        Issue("images without label maps", str(tmp_path / "a.jpg")),
        Issue("label maps without image", str(tmp_path / "b.png")),
    ]
    assert (found.images, list(found.items)) == (1, [])
