# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cmpf.data.datasets.issues import Issue, IssueKind, Issues
from cmpf.data.datasets.readers import read_semantic
from cmpf.data.datasets.readers.folders import check_files, find_images
from cmpf.data.vocabulary import Vocabulary
from cmpf.errors import DatasetError


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


WORDS = Vocabulary(classes=[["road"], ["sky"]])


def read(folder: Path, **options: Any) -> Any:
    arguments = {"images": folder / "images", "labels": folder / "labels", "vocabulary": WORDS}
    return read_semantic(**{**arguments, **options})


def test_images_and_labels_are_paired_by_stem_in_the_order_of_names(tmp_path: Path) -> None:
    touch(tmp_path, "images/b.jpg", "images/a.jpg", "labels/a.png", "labels/b.tif")
    assert read(tmp_path) == [
        {
            "file_name": str(tmp_path / "images" / f"{stem}.jpg"),
            "image_id": stem,
            "sem_seg_file_name": str(tmp_path / "labels" / f"{stem}{ending}"),
        }
        for stem, ending in (("a", ".png"), ("b", ".tif"))
    ]


def test_names_may_differ_by_suffixes_in_folders_of_towns(tmp_path: Path) -> None:
    touch(tmp_path, "images/bonn/x_leftImg8bit.png", "images/ulm/x_leftImg8bit.png")
    for town in ("bonn", "ulm"):
        touch(
            tmp_path,
            *(f"labels/{town}/x_gtFine_{kind}.png" for kind in ("labelTrainIds", "color", "labelIds")),
        )
    samples = read(tmp_path, image_suffix="_leftImg8bit", label_suffix="_gtFine_labelTrainIds")
    assert [sample["image_id"] for sample in samples] == ["bonn/x", "ulm/x"]
    assert samples[0]["sem_seg_file_name"].endswith("bonn/x_gtFine_labelTrainIds.png")


def test_orphans_on_both_sides_and_doubles_come_in_one_message(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg", "images/c.jpg", "images/c.png", "labels/b.png", "labels/c.png")
    with pytest.raises(DatasetError) as caught:
        read(tmp_path, class_of_id={0: 7})
    message = str(caught.value)
    for part in (
        f"{tmp_path / 'labels'}: ",
        f"{tmp_path / 'images' / 'a.jpg'}: has no labels a.* in {tmp_path / 'labels'}",
        f"b.png: has no image b.* in {tmp_path / 'images'}",
        ": the same name as c.",
        "label_map has 0 -> 7, beyond classes 0..1",
    ):
        assert part in message


def test_labels_in_another_folder_of_the_same_name_are_no_pair(tmp_path: Path) -> None:
    touch(tmp_path, "images/bonn/x.jpg", "labels/ulm/x.png")
    with pytest.raises(DatasetError, match=r"has no labels bonn/x.*has no image ulm/x"):
        read(tmp_path)


def test_empty_folders_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg", "labels/a.png")
    with pytest.raises(
        DatasetError, match=r"images: no images named \*_leftImg8bit in it .*prepare the dataset"
    ):
        read(tmp_path, image_suffix="_leftImg8bit", label_suffix="_leftImg8bit")
    with pytest.raises(DatasetError, match=r"images: no images in it \(of \.jpg"):
        read(tmp_path / "empty")
