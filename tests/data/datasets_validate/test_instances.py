# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.own_dataset import change_json, copy_own_dataset

from cmpf.cli.datasets import dataset_name
from cmpf.data.datasets.validate import check_dataset

Content = dict[str, Any]


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return copy_own_dataset(tmp_path)


def after(own: Path, change: Callable[[Content], object]) -> list[str]:
    change_json(own / "instances_val.json", change)
    found = check_dataset(dataset_name(str(own / "fruit_instances.yaml")))
    return [f"{finding.mistake.name} {finding}".replace(f"{own}/", "") for finding in found]


def test_masks_without_a_pixel_are_named(own: Path) -> None:
    def change(content: Content) -> None:
        content["annotations"][0]["segmentation"] = [[5, 5, 5, 5, 5, 5]]  # three times the same point
        content["annotations"][1]["segmentation"] = {"size": [96, 96], "counts": [96 * 96]}

    assert after(own, change) == [
        f"EMPTY instances_val.json: mask of annotation {number} in bowl_01.jpg has no pixel"
        for number in (1, 2)
    ]


def test_masks_of_another_size_are_named_with_both_sizes(own: Path) -> None:
    def change(content: Content) -> None:
        content["annotations"][0]["segmentation"]["size"] = [90, 96]

    assert after(own, change) == [
        "SIZE instances_val.json: mask of annotation 1 in bowl_01.jpg: "
        "run lengths of size [90, 96] in an image of [96, 96]"
    ]


def test_masks_that_are_none_are_named(own: Path) -> None:
    def change(content: Content) -> None:
        content["annotations"][0]["segmentation"] = [[1, 1, 4, 4]]
        content["annotations"][1]["segmentation"] = "a mask"
        del content["annotations"][2]["segmentation"]

    first, second, third = after(own, change)
    assert first == (
        "FORM instances_val.json: mask of annotation 1 in bowl_01.jpg: "
        "a polygon needs three points, x and y of each"
    )
    assert second.startswith("FORM instances_val.json: mask of annotation 2 in bowl_01.jpg: neither polygons")
    assert third == "FORM instances_val.json: entry 2 of annotations: has no 'segmentation'"


def test_objects_of_no_image_of_no_class_and_of_one_id_are_named(own: Path) -> None:
    def change(content: Content) -> None:
        entries = content["annotations"]
        entries[0]["image_id"] = 50
        entries[1]["category_id"] = 6  # a wall, which the file's categories do not list
        entries[3]["id"] = entries[2]["id"]

    assert after(own, change) == [
        "UNPAIRED instances_val.json: annotation 1 is of image 50, not in images",
        "TWICE instances_val.json: annotation id 3 is given twice",
        "CATEGORY instances_val.json: category id 6, which categories does not list, is no class of the "
        "vocabulary; used once, in bowl_01.jpg",
    ]


def test_missing_images_and_wrong_sizes_are_named(own: Path) -> None:
    (own / "images/val/bowl_03.jpg").unlink()

    def change(content: Content) -> None:
        content["images"][0]["width"] = 97
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 1]

    assert after(own, change) == [
        "SIZE instances_val.json: says of bowl_01.jpg (96, 97) (H, W), the image has (96, 96)",
        "MISSING images/val/bowl_03.jpg: no such image, but instances_val.json lists it",
    ]
