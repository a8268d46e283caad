# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from pathlib import Path

import pytest

from cmpf.data.readers.faults import Faults
from cmpf.data.readers.folders import check_files, find_pictures
from cmpf.errors import DatasetError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_pictures_are_found_in_all_folders_by_their_name_without_suffix_and_ending(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "b/2_x.png",
        "a/1_x.JPG",
        "3_x.tif",
        "b/2_y.png",
        "readme_x.txt",
        ".hidden_x.png",
        ".git/4_x.png",
    )
    found = find_pictures(tmp_path, suffix="_x", faults=Faults())
    assert list(found.items()) == [
        ("3", tmp_path / "3_x.tif"),
        ("a/1", tmp_path / "a" / "1_x.JPG"),
        ("b/2", tmp_path / "b" / "2_x.png"),
    ]


def test_without_suffix_every_picture_counts_and_a_missing_folder_has_none(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b_x.png")
    assert list(find_pictures(tmp_path, suffix="", faults=Faults())) == ["a", "b_x"]
    assert find_pictures(tmp_path / "nowhere", suffix="", faults=Faults()) == {}


def test_two_files_of_one_name_are_a_fault(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "a.jpg")
    faults = Faults()
    find_pictures(tmp_path, suffix="", faults=faults)
    with pytest.raises(
        DatasetError, match=r"1 names that two files have: \S+a\.(png and a\.jpg|jpg and a\.png)"
    ):
        faults.raise_any(tmp_path)


def test_folders_behind_links_are_searched(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere", "a.png")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "town").symlink_to(tmp_path / "elsewhere")
    assert list(find_pictures(tmp_path / "here", suffix="", faults=Faults())) == ["town/a"]


def test_missing_files_and_files_of_two_samples_are_faults(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.png")
    faults = Faults()
    a, b, c = (str(tmp_path / f"{name}.png") for name in "abc")
    check_files(
        [
            {"file_name": a, "sem_seg_file_name": b},
            {"file_name": a, "sem_seg_file_name": c},
            {"file_name": b},
        ],
        faults,
    )
    with pytest.raises(DatasetError) as caught:
        faults.raise_any(tmp_path)
    assert f"1 missing semantic PNGs: {c}" in str(caught.value)
    assert f"1 pictures that several samples share: {a}." in str(caught.value)
