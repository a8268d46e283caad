# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.own_dataset import SOURCE, change_json, change_pixels, copy_own_dataset
from PIL import Image

from cmpf.cli.datasets import dataset_name
from cmpf.data.datasets.issues import IssueKind, Issues
from cmpf.data.datasets.readers import read_coco_instances
from cmpf.data.datasets.readers.coco_entries import read_truth
from cmpf.data.datasets.validate import report_of
from cmpf.data.vocabulary import Vocabulary
from cmpf.errors import DatasetError
from cmpf.formats.label_map import read_panoptic_ids

Content = dict[str, Any]
PNG = "panoptic_val/bowl_01.png"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return copy_own_dataset(tmp_path)


def found_in(own: Path, name: str = "fruit_val") -> list[str]:
    """Kind and text of each issue, with paths relative to the folder."""
    found = report_of(dataset_name(str(own / f"{name}.yaml"))).issues
    return [f"{issue.kind.name} {issue}".replace(f"{own}/", "") for issue in found]


def after(own: Path, change: Callable[[Content], object]) -> list[str]:
    """Issues after a change of the panoptic JSON file."""
    change_json(own / "panoptic_val.json", change)
    return found_in(own)


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
    missing, damaged = found_in(own)
    assert missing == "MISSING images/val/bowl_01.jpg: no such image, but panoptic_val.json lists it"
    assert damaged.startswith("DAMAGED images/val/bowl_02.jpg: damaged or truncated")


def test_missing_and_damaged_pngs_are_named(own: Path) -> None:
    (own / PNG).write_bytes(b"\x89PNG")
    (own / "panoptic_val/bowl_02.png").unlink()
    (own / "labels/val/bowl_03.png").unlink()
    damaged, *missing = found_in(own)
    assert damaged.startswith(f"DAMAGED {PNG}: damaged panoptic PNG")
    assert missing == [
        "MISSING panoptic_val/bowl_02.png: no such panoptic PNG",
        "MISSING labels/val/bowl_03.png: no such label map",
    ]


def test_a_name_that_no_file_can_have_is_a_missing_file(own: Path) -> None:
    name = 300 * "x"  # 255 are possible

    def change(content: Content) -> None:
        content["images"][0]["file_name"] = f"{name}.jpg"
        content["annotations"][1]["file_name"] = f"{name}.png"

    found = after(own, change)
    assert f"MISSING images/val/{name}.jpg: no such image, but panoptic_val.json lists it" in found
    assert f"MISSING panoptic_val/{name}.png: no such panoptic PNG" in found


def test_an_id_that_only_the_png_has_and_one_that_only_the_json_has_are_named(own: Path) -> None:
    old = first_ids(own)[0]
    set_id(own, old, 5)
    assert found_in(own) == [
        f"IDS {PNG}: segment id 5 in the PNG, but not in panoptic_val.json",
        f"IDS {PNG}: segment id {old} in panoptic_val.json, but without a pixel in the PNG",
    ]


def test_two_segments_of_one_id_are_found_in_json_and_by_their_area(own: Path) -> None:
    first, second = first_ids(own)[:2]
    doubled = after(own, lambda content: segments(content)[1].update(id=first))
    assert doubled == [
        f"TWICE panoptic_val.json: segment id {first} of bowl_01.png is given twice",
        f"IDS {PNG}: segment id {second} in the PNG, but not in panoptic_val.json",
    ]
    change_json(own / "panoptic_val.json", lambda content: segments(content).pop(1))
    areas: list[int] = []
    change_json(own / "panoptic_val.json", lambda content: areas.append(segments(content)[0]["area"]))
    set_id(own, second, first)
    both = int((read_panoptic_ids(own / PNG) == first).sum())
    assert found_in(own) == [
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
    assert found_in(own) == [f"EMPTY {PNG}: every pixel is void: no segment is drawn"]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA"])
def test_pngs_that_are_not_rgb_are_named(own: Path, mode: str) -> None:
    image = Image.open(own / PNG)
    image = image.quantize(256, dither=Image.Dither.NONE) if mode == "P" else image.convert(mode)
    image.save(own / PNG)
    found = found_in(own)
    message = f"NOT_RGB {PNG}: is an image of mode {mode}; segment ids are read from R, G and B"
    assert found[0] == message
    # Gray values are other ids; palette colors and RGBA hold the same ones.
    assert any(line.startswith("IDS") for line in found) == (mode == "L")


def test_modes_that_hold_no_ids_and_jpegs_are_not_read_on(own: Path) -> None:
    Image.open(own / PNG).convert("LA").save(own / PNG)
    Image.open(own / "panoptic_val/bowl_02.png").save(own / "panoptic_val/bowl_02.png", format="JPEG")
    assert found_in(own) == [
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
    (found,) = report_of(dataset_name(str(own / "fruit_train.yaml"))).issues
    assert (found.kind.name, found.file.name) == ("SIZE", "panoptic_train.json")
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
        "FORM panoptic_val.json: entry 2 of annotations: id [1] is not a whole number",
        "FORM panoptic_val.json: entry 3 of annotations: has no 'id'",
    ]


def test_categories_without_names_are_one_finding(own: Path) -> None:
    found = after(own, lambda content: content["categories"][2].pop("name"))
    assert found == ["FORM panoptic_val.json: entry 2 of categories: has no 'name'"]


def test_instances_and_labels_beside_are_checked_too(own: Path) -> None:
    change_pixels(own / "labels/val/bowl_02.png", lambda pixels: pixels + np.uint8(1))

    def change(content: Content) -> None:
        content["annotations"][0]["segmentation"] = [[1, 1, 1, 1, 1, 1]]
        for image in content["images"]:
            image["id"] += 100  # as made by another program: images are found by their stem
        for annotation in content["annotations"]:
            annotation["image_id"] += 100

    change_json(own / "instances_val.json", change)
    empty, label = found_in(own)
    assert label.startswith("LABEL labels/val/bowl_02.png: label 6 in ")
    assert empty == "EMPTY instances_val.json: mask of annotation 1 in bowl_01.jpg has no pixel"


def after_instances(own: Path, change: Callable[[Content], object]) -> list[str]:
    """Issues after a change of the instances JSON file."""
    change_json(own / "instances_val.json", change)
    return found_in(own, "fruit_instances")


def test_masks_without_a_pixel_are_named(own: Path) -> None:
    def change(content: Content) -> None:
        content["annotations"][0]["segmentation"] = [[5, 5, 5, 5, 5, 5]]  # three times the same point
        content["annotations"][1]["segmentation"] = {"size": [96, 96], "counts": [96 * 96]}

    assert after_instances(own, change) == [
        f"EMPTY instances_val.json: mask of annotation {number} in bowl_01.jpg has no pixel"
        for number in (1, 2)
    ]


def test_masks_of_another_size_are_named_with_both_sizes(own: Path) -> None:
    def change(content: Content) -> None:
        content["annotations"][0]["segmentation"]["size"] = [90, 96]

    assert after_instances(own, change) == [
        "SIZE instances_val.json: mask of annotation 1 in bowl_01.jpg: "
        "run lengths of size [90, 96] in an image of [96, 96]"
    ]


def test_masks_that_are_none_are_named(own: Path) -> None:
    def change(content: Content) -> None:
        content["annotations"][0]["segmentation"] = [[1, 1, 4, 4]]
        content["annotations"][1]["segmentation"] = "a mask"
        del content["annotations"][2]["segmentation"]

    first, second, third = after_instances(own, change)
    assert first == (
        "FORM instances_val.json: mask of annotation 1 in bowl_01.jpg: "
        "a polygon needs three points, x and y of each"
    )
    assert second.startswith("FORM instances_val.json: mask of annotation 2 in bowl_01.jpg: neither polygons")
    assert third == "FORM instances_val.json: entry 2 of annotations: has no 'segmentation'"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("id", True, "id True is not a whole number"),
        ("category_id", True, "category_id True of id 1 is not a whole number"),
        ("category_id", "fruit", "category_id fruit of id 1 is not a whole number"),
        ("iscrowd", "no", "iscrowd no of id 1 is not 0 or 1"),
        ("iscrowd", [1], "iscrowd [1] of id 1 is not 0 or 1"),
        ("iscrowd", 2, "iscrowd 2 of id 1 is not 0 or 1"),
        ("area", "large", "area large of id 1 is not a number from 0 to 4,294,836,225"),
        ("area", -1, "area -1 of id 1 is not a number from 0 to 4,294,836,225"),
        ("area", 2**70, f"area {2**70} of id 1 is not a number from 0 to 4,294,836,225"),
        ("bbox", [math.nan, 0, 1, 1], "bbox [nan, 0, 1, 1] of id 1 is not four numbers: x, y, width, height"),
        ("bbox", [0, 0, 1, math.inf], "bbox [0, 0, 1, inf] of id 1 is not four numbers: x, y, width, height"),
        ("bbox", [0, 0, -1, 1], "bbox [0, 0, -1, 1] of id 1 is not four numbers: x, y, width, height"),
        ("bbox", 5, "bbox 5 of id 1 is not four numbers: x, y, width, height"),
    ],
)
def test_numbers_that_cannot_be_are_named_by_the_check_and_stop_the_reader(
    own: Path, key: str, value: Any, message: str
) -> None:
    def change(content: Content) -> None:
        content["annotations"][0][key] = value

    found = after_instances(own, change)
    assert f"FORM instances_val.json: entry 0 of annotations: {message}" in found
    truth = json.loads((own / "instances_val.json").read_text())
    words = Vocabulary(classes=[[category["name"]] for category in truth["categories"]])
    with pytest.raises(
        DatasetError, match=re.escape(f"format (1): entry 0 of annotations: {message}. Repair")
    ):
        read_coco_instances(
            images=own / "images/val", annotations=own / "instances_val.json", vocabulary=words
        )


@pytest.mark.parametrize("width", [0, -96, 96.5, 10**12, True, "96"])
def test_images_of_impossible_sizes_are_named(own: Path, width: Any) -> None:
    def change(content: Content) -> None:
        content["images"][0]["width"] = width

    found = after(own, change)
    identity = json.loads((own / "panoptic_val.json").read_text())["images"][0]["id"]
    message = f"width {width} of id {identity} is not a whole number from 1 to 65,535"
    assert f"FORM panoptic_val.json: entry 0 of images: {message}" in found


@pytest.mark.parametrize("name", [7, None, ["a.jpg"]])
def test_names_of_files_that_are_no_text_are_told(own: Path, name: Any) -> None:
    def change(content: Content) -> None:
        content["images"][0]["file_name"] = content["annotations"][1]["file_name"] = name

    found = after(own, change)
    assert f"FORM panoptic_val.json: entry 0 of images: file_name {name} of id 1 is not text" in found
    assert f"FORM panoptic_val.json: entry 1 of annotations: file_name {name} is not text" in found


def test_objects_of_no_image_of_no_class_and_of_one_id_are_named(own: Path) -> None:
    def change(content: Content) -> None:
        entries = content["annotations"]
        entries[0]["image_id"] = 50
        entries[1]["category_id"] = 6  # a wall, which the file's categories do not list
        entries[3]["id"] = entries[2]["id"]

    assert after_instances(own, change) == [
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

    assert after_instances(own, change) == [
        "SIZE instances_val.json: says of bowl_01.jpg (96, 97) (H, W), the image has (96, 96)",
        "MISSING images/val/bowl_03.jpg: no such image, but instances_val.json lists it",
    ]


def kind_message(path: Path, wanted: str) -> str:
    issues = Issues()
    assert read_truth(path, wanted, issues) is None
    (found,) = issues.found
    assert (found.kind, found.file) == (IssueKind.JSON_KIND, path)
    return found.message


def test_each_kind_is_taken_where_it_is_wanted() -> None:
    for kind in ("panoptic", "instances"):
        content = read_truth(SOURCE / f"{kind}_val.json", kind, Issues())
        assert content is not None
        assert len(content["images"]) == 4


def test_instances_given_for_panoptic_and_the_other_way_round_are_told() -> None:
    assert kind_message(SOURCE / "instances_val.json", "panoptic") == (
        "holds COCO instances; expected COCO panoptic, with annotations that have 'segments_info'"
    )
    assert kind_message(SOURCE / "panoptic_val.json", "instances") == (
        "holds COCO panoptic; expected COCO instances, with annotations that have 'segmentation'"
    )


def test_folders_missing_files_and_broken_ones_are_told(tmp_path: Path) -> None:
    assert kind_message(tmp_path, "panoptic") == "is a folder; expected a COCO panoptic JSON file"
    (tmp_path / "cut.json").write_text('{"images": [')
    issues = Issues()
    assert read_truth(tmp_path / "cut.json", "panoptic", issues) is None
    assert read_truth(tmp_path / "none.json", "panoptic", issues) is None
    assert [issue.kind for issue in issues.found] == [IssueKind.DAMAGED, IssueKind.MISSING]


@pytest.mark.parametrize(
    ("name", "wrong", "expected"),
    [
        ("fruit_train", "instances_train.json", "holds COCO instances; expected COCO panoptic"),
        ("fruit_instances", "panoptic_val.json", "holds COCO panoptic; expected COCO instances"),
        ("fruit_semantic", "panoptic_val.json", "is a file; a semantic dataset has a folder"),
        ("fruit_instances", "labels/val", "is a folder; expected a COCO instances JSON file"),
    ],
)
def test_a_dataset_with_annotations_of_another_task_says_so(
    tmp_path: Path, name: str, wrong: str, expected: str
) -> None:
    own = copy_own_dataset(tmp_path)
    file = own / f"{name}.yaml"
    lines = file.read_text().splitlines()
    changed = [f"annotations: {wrong}" if line.startswith("annotations:") else line for line in lines]
    file.write_text("\n".join(changed))
    found = [f for f in report_of(dataset_name(str(file))).issues if f.kind is IssueKind.JSON_KIND]
    assert [issue.file for issue in found] == [own / wrong]
    assert found[0].message.startswith(expected)
