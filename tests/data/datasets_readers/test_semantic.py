# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cmpf.data.datasets.readers import read_semantic
from cmpf.data.vocabulary import Vocabulary
from cmpf.errors import DatasetError

WORDS = Vocabulary(classes=[["road"], ["sky"]])


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


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
