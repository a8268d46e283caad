# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.own_dataset import change_json, change_pixels, copy_own_dataset
from PIL import Image

from cmpf.cli.datasets import dataset_name
from cmpf.data.datasets.validate import check_dataset
from cmpf.formats.label_map import read_panoptic_ids

Content = dict[str, Any]
PNG = "panoptic_val/bowl_01.png"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return copy_own_dataset(tmp_path)


def findings(own: Path) -> list[str]:
    found = check_dataset(dataset_name(str(own / "fruit_val.yaml")))
    return [f"{finding.mistake.name} {finding}".replace(f"{own}/", "") for finding in found]


def after(own: Path, change: Callable[[Content], object]) -> list[str]:
    """Findings after a change of the panoptic JSON file."""
    change_json(own / "panoptic_val.json", change)
    return findings(own)


def segments(content: Content) -> list[Content]:
    """Of the first image: table, wall, then fruit."""
    found: list[Content] = content["annotations"][0]["segments_info"]
    return found


def set_id(own: Path, old: int, new: int) -> None:
    """Paints a segment of the first PNG in the color of another id: R + 256 G + 65536 B."""

    def change(pixels: np.ndarray) -> None:
        pixels[read_panoptic_ids(own / PNG) == old] = [new % 256, new // 256 % 256, new // 65536]

    change_pixels(own / PNG, change)


def first_ids(own: Path) -> list[int]:
    ids: list[int] = []
    change_json(own / "panoptic_val.json", lambda content: ids.extend(s["id"] for s in segments(content)))
    return ids


def test_missing_and_damaged_images_are_named(own: Path) -> None:
    (own / "images/val/bowl_01.jpg").unlink()
    content = (own / "images/val/bowl_02.jpg").read_bytes()
    (own / "images/val/bowl_02.jpg").write_bytes(content[: len(content) // 2])
    missing, damaged = findings(own)
    assert missing == "MISSING images/val/bowl_01.jpg: no such image, but panoptic_val.json lists it"
    assert damaged.startswith("DAMAGED images/val/bowl_02.jpg: damaged or truncated")


def test_missing_and_damaged_pngs_are_named(own: Path) -> None:
    (own / PNG).write_bytes(b"\x89PNG")
    (own / "panoptic_val/bowl_02.png").unlink()
    (own / "labels/val/bowl_03.png").unlink()
    damaged, *missing = findings(own)
    assert damaged.startswith(f"DAMAGED {PNG}: damaged panoptic PNG")
    assert missing == [
        "MISSING panoptic_val/bowl_02.png: no such panoptic PNG",
        "MISSING labels/val/bowl_03.png: no such label map",
    ]


def test_an_id_that_only_the_png_has_and_one_that_only_the_json_has_are_named(own: Path) -> None:
    old = first_ids(own)[0]
    set_id(own, old, 5)
    assert findings(own) == [
        f"IDS {PNG}: segment id 5 in the PNG, but not in panoptic_val.json",
        f"IDS {PNG}: segment id {old} in panoptic_val.json, but without a pixel in the PNG",
    ]


def test_two_segments_of_one_id_are_found_in_json_and_by_their_area(own: Path) -> None:
    first, second = first_ids(own)[:2]
    doubled = after(own, lambda content: segments(content)[1].update(id=first))
    assert doubled == [
        f"IDS {PNG}: segment id {first} given twice in panoptic_val.json",
        f"IDS {PNG}: segment id {second} in the PNG, but not in panoptic_val.json",
    ]
    change_json(own / "panoptic_val.json", lambda content: segments(content).pop(1))
    areas: list[int] = []
    change_json(own / "panoptic_val.json", lambda content: areas.append(segments(content)[0]["area"]))
    set_id(own, second, first)
    both = int((read_panoptic_ids(own / PNG) == first).sum())
    assert findings(own) == [
        f"IDS {PNG}: area of segment id {first} ({areas[0]} pixels in panoptic_val.json, {both} in the PNG): "
        "two segments may share the id"
    ]


def test_id_0_is_void(own: Path) -> None:
    old = first_ids(own)[0]
    found = after(own, lambda content: segments(content)[0].update(id=0))
    assert found == [
        f"IDS {PNG}: segment id 0 in panoptic_val.json, but 0 means void",
        f"IDS {PNG}: segment id {old} in the PNG, but not in panoptic_val.json",
    ]


def test_a_png_without_segments_is_empty(own: Path) -> None:
    change_pixels(own / PNG, np.zeros_like)
    assert findings(own) == [f"EMPTY {PNG}: every pixel is void: no segment is drawn"]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA"])
def test_pngs_that_are_not_rgb_are_named(own: Path, mode: str) -> None:
    image = Image.open(own / PNG)
    image = image.quantize(256, dither=Image.Dither.NONE) if mode == "P" else image.convert(mode)
    image.save(own / PNG)
    found = findings(own)
    message = f"NOT_RGB {PNG}: is an image of mode {mode}; segment ids are read from R, G and B"
    assert found[0] == message
    # Gray values are other ids; palette colors and RGBA hold the same ones.
    assert any(line.startswith("IDS") for line in found) == (mode == "L")


def test_modes_that_hold_no_ids_and_jpegs_are_not_read_on(own: Path) -> None:
    Image.open(own / PNG).convert("LA").save(own / PNG)
    Image.open(own / "panoptic_val/bowl_02.png").save(own / "panoptic_val/bowl_02.png", format="JPEG")
    assert findings(own) == [
        f"NOT_RGB {PNG}: is an image of mode LA; segment ids are read from R, G and B",
        "NOT_RGB panoptic_val/bowl_02.png: is a JPEG, which changes the ids; "
        "segment ids are read from R, G and B",
    ]


def test_sizes_that_differ_are_named_with_both(own: Path) -> None:
    for name in (PNG, "labels/val/bowl_01.png"):
        change_pixels(own / name, lambda pixels: pixels[:, :-1])

    def without_areas(content: Content) -> None:
        for segment in segments(content):
            del segment["area"]

    assert after(own, without_areas) == [
        f"SIZE {PNG}: has (96, 95) (H, W), the image has (96, 96)",
        "SIZE labels/val/bowl_01.png: has (96, 95) (H, W), the image has (96, 96)",
    ]


def test_a_wrong_size_in_the_json_file_is_named(own: Path) -> None:
    change_json(own / "panoptic_train.json", lambda content: content["images"][1].update(height=100))
    (found,) = check_dataset(dataset_name(str(own / "fruit_train.yaml")))
    assert (found.mistake.name, found.file.name) == ("SIZE", "panoptic_train.json")
    assert found.message == "says of bowl_02.jpg (100, 96) (H, W), the image has (96, 96)"


def test_categories_that_the_vocabulary_lacks_are_counted_with_their_files(own: Path) -> None:
    def change(content: Content) -> None:
        content["categories"][4]["name"] = "desk"  # was the table, which is in every image
        segments(content)[0]["category_id"] = 77
        assert [a["segments_info"][0]["category_id"] for a in content["annotations"]] == [77, 5, 5, 5]

    assert after(own, change) == [
        "CATEGORY panoptic_val.json: category id 77, which categories does not list, is no class of the "
        "vocabulary; used once, in bowl_01.png",
        "CATEGORY panoptic_val.json: category id 5, 'desk', is no class of the vocabulary; used 3 times, in "
        "bowl_02.png, bowl_03.png, bowl_04.png",
    ]


def test_images_and_annotations_that_come_twice_are_named(own: Path) -> None:
    def change(content: Content) -> None:
        images, annotations = content["images"], content["annotations"]
        images.append({**images[0], "id": 9})  # bowl_01.jpg again
        images.append({**images[1], "file_name": "other.jpg"})  # id 2 again
        annotations.append(annotations[2])

    assert after(own, change) == [
        "TWICE images/val/bowl_01.jpg: panoptic_val.json lists it twice, as images 1 and 9",
        "TWICE panoptic_val.json: image id 2 is given twice: bowl_02.jpg and other.jpg",
        "TWICE panoptic_val.json: image 3 has two annotations: bowl_03.png and bowl_03.png",
    ]


def test_two_images_that_share_a_png_are_named(own: Path) -> None:
    def change(content: Content) -> None:
        content["annotations"][1]["file_name"] = "bowl_01.png"

    found = after(own, change)
    assert found[0] == "TWICE panoptic_val.json: images 1 and 2 share the PNG bowl_01.png"
    assert "UNPAIRED images/val/bowl_02.jpg: has no annotation in panoptic_val.json" in found


def test_annotations_of_no_image_and_images_without_annotation_are_named(own: Path) -> None:
    def change(content: Content) -> None:
        content["annotations"][0]["image_id"] = 50

    assert after(own, change) == [
        "UNPAIRED panoptic_val.json: annotation bowl_01.png is of image 50, not in images",
        "UNPAIRED images/val/bowl_01.jpg: has no annotation in panoptic_val.json",
    ]


def test_entries_without_their_keys_are_counted_off(own: Path) -> None:
    def change(content: Content) -> None:
        del content["images"][3]["width"]
        del content["annotations"][3]["segments_info"][0]["id"]
        content["annotations"][2]["segments_info"][0]["id"] = [1]

    found = after(own, change)
    assert found[:3] == [
        "FORM panoptic_val.json: entry 3 of images: has no 'width'",
        "FORM panoptic_val.json: entry 2 of annotations: unhashable type: 'list'",
        "FORM panoptic_val.json: entry 3 of annotations: has no 'id'",
    ]


def test_categories_without_names_are_one_finding(own: Path) -> None:
    found = after(own, lambda content: content["categories"][2].pop("name"))
    assert found == ["FORM panoptic_val.json: an entry of categories: has no 'name'"]


def test_instances_and_labels_beside_are_checked_too(own: Path) -> None:
    change_pixels(own / "labels/val/bowl_02.png", lambda pixels: pixels + np.uint8(1))

    def change(content: Content) -> None:
        content["annotations"][0]["segmentation"] = [[1, 1, 1, 1, 1, 1]]
        for image in content["images"]:
            image["id"] += 100  # as made by another program: images are found by their stem
        for annotation in content["annotations"]:
            annotation["image_id"] += 100

    change_json(own / "instances_val.json", change)
    label, empty = findings(own)
    assert label.startswith("LABEL labels/val/bowl_02.png: label 6 in ")
    assert empty == "EMPTY instances_val.json: mask of annotation 1 in bowl_01.jpg has no pixel"
