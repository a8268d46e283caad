# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from pathlib import Path

from cmpf.data.datasets.issues import Issue, IssueKind, Issues
from cmpf.data.datasets.readers.folders import check_files, find_images


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_images_are_found_in_all_folders_by_their_name_without_suffix_and_ending(tmp_path: Path) -> None:
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
    found = find_images(tmp_path, suffix="_x", issues=Issues())
    assert list(found.items()) == [
        ("3", tmp_path / "3_x.tif"),
        ("a/1", tmp_path / "a" / "1_x.JPG"),
        ("b/2", tmp_path / "b" / "2_x.png"),
    ]


def test_without_suffix_every_image_counts_and_a_missing_folder_has_none(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b_x.png")
    assert list(find_images(tmp_path, suffix="", issues=Issues())) == ["a", "b_x"]
    assert find_images(tmp_path / "nowhere", suffix="", issues=Issues()) == {}


def test_two_files_of_one_name_are_an_issue(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "a.jpg")
    issues = Issues()
    find_images(tmp_path, suffix="", issues=issues)
    (issue,) = issues.found
    assert issue.kind is IssueKind.TWICE
    assert (issue.file.name, issue.message) in (
        ("a.png", "the same name as a.jpg"),
        ("a.jpg", "the same name as a.png"),
    )


def test_folders_behind_links_are_searched(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere", "a.png")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "town").symlink_to(tmp_path / "elsewhere")
    assert list(find_images(tmp_path / "here", suffix="", issues=Issues())) == ["town/a"]


def test_missing_files_and_files_of_two_samples_are_issues(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.png")
    issues = Issues()
    a, b, c = (str(tmp_path / f"{name}.png") for name in "abc")
    check_files(
        [
            {"file_name": a, "sem_seg_file_name": b},
            {"file_name": a, "sem_seg_file_name": c},
            {"file_name": b},
        ],
        issues,
    )
    assert issues.found == [
        Issue(IssueKind.MISSING, Path(c), "no such label map"),
        Issue(IssueKind.TWICE, Path(a), "image of 2 samples"),
    ]
