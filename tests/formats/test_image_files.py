# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from pathlib import Path

import pytest

from cmpf.errors import ImageError
from cmpf.formats.image_files import find_images


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.png", "a.JPG", "notes.txt", ".hidden.png", "deep/c.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def names(found: list[Path], folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in found]


def test_a_folder_means_its_images_by_name(folder: Path) -> None:
    assert names(find_images([folder]), folder) == ["a.JPG", "b.png"]


def test_files_come_in_the_order_given_and_once(folder: Path) -> None:
    given = [folder / "b.png", str(folder), folder / "notes.txt"]
    assert names(find_images(given), folder) == ["b.png", "a.JPG", "notes.txt"]


def test_patterns_may_reach_into_folders(folder: Path) -> None:
    assert names(find_images([f"{folder}/**/*.webp"]), folder) == ["deep/c.webp"]
    assert names(find_images([f"{folder}/*"]), folder) == ["a.JPG", "b.png", "notes.txt"]


def test_a_file_with_a_pattern_in_its_name_is_a_file(folder: Path) -> None:
    (folder / "x[1].png").touch()
    assert names(find_images([folder / "x[1].png"]), folder) == ["x[1].png"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nothing-*.png", r"nothing-\*\.png: no such image \(looked at /"),
        ("deep/deeper", "deeper: no image in this folder"),
    ],
)
def test_what_names_no_image_is_refused(folder: Path, given: str, message: str) -> None:
    (folder / "deep/deeper").mkdir()
    with pytest.raises(ImageError, match=message):
        find_images([folder / given])
