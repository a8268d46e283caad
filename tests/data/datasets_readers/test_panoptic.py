# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.panoptic import TinyPanoptic, write_tiny_panoptic
from PIL import Image
from pycocotools import mask as coco_mask

from cmpf.data.datasets.readers import FileNames, read_coco_panoptic
from cmpf.data.vocabulary import Vocabulary
from cmpf.errors import DatasetError


@pytest.fixture
def tiny(tmp_path: Path) -> TinyPanoptic:
    return write_tiny_panoptic(tmp_path, count=3, crowd=True)


def edited(path: Path) -> Any:
    """The content of a JSON file, to be changed and written back."""
    return json.loads(path.read_text())


def test_a_tiny_dataset_is_read_whole(tiny: TinyPanoptic) -> None:
    samples = read_coco_panoptic(**tiny.reader_arguments)
    assert [sample["image_id"] for sample in samples] == [1, 2, 3]
    for number, sample in enumerate(samples, start=1):
        assert sample["file_name"] == str(tiny.folder / "images" / f"{number}.png")
        assert sample["pan_seg_file_name"] == str(tiny.folder / "panoptic" / f"{number}.png")
        assert sample["sem_seg_file_name"] == str(tiny.folder / "semantic" / f"{number}.png")
        assert (sample["height"], sample["width"]) == (24, 32)


def test_category_ids_become_class_indices_with_the_kind_of_the_vocabulary(tiny: TinyPanoptic) -> None:
    sample = read_coco_panoptic(**tiny.reader_arguments)[1]
    ids = tiny.ids[1]
    found = {s["id"]: (s["category_id"], s["isthing"], s["iscrowd"]) for s in sample["segments_info"]}
    # 1 grass (stuff, index 2), 2 dog (1), 3 cat (0), 4 a crowd of dogs
    expected = {2001: (2, False, 0), 2002: (1, True, 0), 2003: (0, True, 0), 2004: (1, True, 1)}
    assert found == {name: expected[name] for name in np.unique(ids[ids > 0])}
    assert all(s["area"] == (ids == s["id"]).sum() for s in sample["segments_info"])


def test_instances_come_with_class_indices_and_their_masks(tiny: TinyPanoptic) -> None:
    samples = read_coco_panoptic(**tiny.reader_arguments)
    for sample, ids in zip(samples, tiny.ids, strict=True):
        assert {a["category_id"] for a in sample["annotations"]} <= {0, 1}
        for annotation in sample["annotations"]:
            assert np.array_equal(coco_mask.decode(annotation["segmentation"]), ids == annotation["id"])


def test_semantic_images_and_instances_are_optional(tiny: TinyPanoptic) -> None:
    arguments = {**tiny.reader_arguments, "semantic": None, "instances": None}
    sample = read_coco_panoptic(**arguments)[0]
    assert "sem_seg_file_name" not in sample
    assert "annotations" not in sample


def test_a_label_map_replaces_names(tiny: TinyPanoptic) -> None:
    words = Vocabulary(classes=[["lawn"], ["pet"]], things=[1])
    arguments = {**tiny.reader_arguments, "vocabulary": words, "class_of_id": {3: 1, 7: 1, 20: 0}}
    sample = read_coco_panoptic(**arguments)[0]
    # grass, dog, cat, crowd of dogs, in the order of the file
    assert [s["category_id"] for s in sample["segments_info"]] == [0, 1, 1, 1]
    assert [s["isthing"] for s in sample["segments_info"]] == [False, True, True, True]


def test_a_name_goes_before_a_synonym_of_another_class(tiny: TinyPanoptic) -> None:
    words = Vocabulary(classes=[["animal", "cat", "dog"], ["cat"], ["lawn", "grass"]])
    sample = read_coco_panoptic(**{**tiny.reader_arguments, "vocabulary": words})[0]
    assert [s["category_id"] for s in sample["segments_info"]] == [2, 0, 1, 0]


def test_reading_opens_no_image(tiny: TinyPanoptic) -> None:
    for path in tiny.folder.glob("*/*.png"):
        path.write_bytes(b"")
    assert len(read_coco_panoptic(**tiny.reader_arguments)) == 3


def test_orphans_on_both_sides_doubles_and_missing_files_come_in_one_message(tiny: TinyPanoptic) -> None:
    path = tiny.folder / "panoptic.json"
    content = edited(path)
    content["annotations"][0]["image_id"] = 77  # image 1 loses its annotation, which loses its image
    content["annotations"].append(content["annotations"][1])  # image 2 has two
    content["images"].append(content["images"][2])  # image 3 is listed twice
    segments = content["annotations"][2]["segments_info"]
    segments.append({**segments[0], "category_id": 3})
    path.write_text(json.dumps(content))
    (tiny.folder / "images" / "2.png").unlink()
    (tiny.folder / "semantic" / "3.png").unlink()
    with pytest.raises(DatasetError) as caught:
        read_coco_panoptic(**tiny.reader_arguments)
    message = str(caught.value)
    images = tiny.folder / "images"
    for part in (
        f"{path}: ",
        "image id 3 is given 2 times",
        "annotation 1.png is of image 77, not in images",
        "image 2 has two annotations",
        f"{images / '1.png'}: has no annotation in panoptic.json",
        f"{images / '2.png'}: no such image",
        f"{tiny.folder / 'semantic' / '3.png'}: no such label map",
        "segment id 3001 of 3.png is given 2 times",
        "prepare it again",
    ):
        assert part in message


def test_of_many_issues_the_first_few_are_named_and_all_counted(tmp_path: Path) -> None:
    tiny = write_tiny_panoptic(tmp_path, count=5)
    for path in (tmp_path / "panoptic").iterdir():
        path.unlink()
    with pytest.raises(
        DatasetError,
        match=r"missing file \(5\): \S+1\.png: no such panoptic PNG, \S+2\.png: .*3\.png: .*, \.\.\.\.",
    ):
        read_coco_panoptic(**tiny.reader_arguments)


def test_a_missing_folder_counts_as_missing_files(tiny: TinyPanoptic) -> None:
    arguments = {**tiny.reader_arguments, "images": tiny.folder / "nowhere"}
    with pytest.raises(DatasetError, match=r"missing file \(3\): \S+1\.png: no such image"):
        read_coco_panoptic(**arguments)


def test_images_in_subfolders_are_found(tiny: TinyPanoptic) -> None:
    path = tiny.folder / "panoptic.json"
    content = edited(path)
    content["images"][0]["file_name"] = "town/1.png"
    path.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r"missing file \(1\): \S+town/1\.png: no such image"):
        read_coco_panoptic(**tiny.reader_arguments)
    (tiny.folder / "images" / "town").mkdir()
    (tiny.folder / "images" / "1.png").rename(tiny.folder / "images" / "town" / "1.png")
    assert len(read_coco_panoptic(**tiny.reader_arguments)) == 3


def test_categories_that_the_vocabulary_lacks_are_named(tiny: TinyPanoptic) -> None:
    words = Vocabulary(classes=[["dog"], ["grass"]])
    with pytest.raises(DatasetError, match=r"category id 3, 'cat', is no class of the vocabulary"):
        read_coco_panoptic(**{**tiny.reader_arguments, "vocabulary": words})


def test_instances_of_other_images_and_doubled_ids_are_refused(tiny: TinyPanoptic) -> None:
    path = tiny.folder / "instances.json"
    content = edited(path)
    content["annotations"][0]["image_id"] = 99
    content["annotations"].append(content["annotations"][1])
    path.write_text(json.dumps(content))
    double = content["annotations"][1]["id"]
    message = rf"annotation \d+ is of image 99, not in images; .*annotation id {double} is given 2 times"
    with pytest.raises(DatasetError, match=message):
        read_coco_panoptic(**tiny.reader_arguments)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"panoptic\.json: no whole JSON file"),
        ('{"images": [', r"panoptic\.json: no whole JSON file"),
        ("[]", r"panoptic\.json: no COCO file, it has no list 'images'"),
        ('{"images": [], "annotations": 5}', "no COCO file, it has no list 'annotations'"),
        ('{"images": [{"id": 1}], "annotations": [], "categories": []}', "an entry has no 'file_name'"),
        ('{"images": [3], "annotations": [], "categories": []}', "not in COCO's form"),
    ],
)
def test_damaged_annotation_files_are_named(tiny: TinyPanoptic, text: str, message: str) -> None:
    (tiny.folder / "panoptic.json").write_text(text)
    with pytest.raises(DatasetError, match=message):
        read_coco_panoptic(**tiny.reader_arguments)


def test_damaged_instance_files_are_named(tiny: TinyPanoptic) -> None:
    path = tiny.folder / "instances.json"
    path.write_text('{"annotations": [{"id": 1}], "categories": []}')
    with pytest.raises(
        DatasetError, match=r"instances\.json: not in COCO's form: an entry has no 'category_id'"
    ):
        read_coco_panoptic(**tiny.reader_arguments)
    path.unlink()
    with pytest.raises(DatasetError, match=r"instances\.json: cannot be read \(No such file"):
        read_coco_panoptic(**tiny.reader_arguments)


def test_the_helper_writes_what_it_says(tiny: TinyPanoptic) -> None:
    for number, (image, ids) in enumerate(zip(tiny.images, tiny.ids, strict=True), start=1):
        stored = np.asarray(Image.open(tiny.folder / "images" / f"{number}.png"))
        rgb = np.asarray(Image.open(tiny.folder / "panoptic" / f"{number}.png")).astype(int)
        labels = np.asarray(Image.open(tiny.folder / "semantic" / f"{number}.png"))
        assert np.array_equal(stored, image)
        assert np.array_equal(rgb @ [1, 256, 65536], ids)
        class_of = {0: 255, 1: 2, 2: 1, 3: 0, 4: 1}
        assert labels.tolist() == [[class_of[i % 1000] for i in row] for row in ids.tolist()]


def test_files_may_have_other_names_than_the_json_file_says(tiny: TinyPanoptic) -> None:
    for kind in ("images", "semantic"):
        for path in list((tiny.folder / kind).iterdir()):
            (tiny.folder / kind / "town").mkdir(exist_ok=True)
            path.rename(tiny.folder / kind / "town" / f"{path.stem}_{kind}.png")
    names = FileNames(
        image=lambda entry: f"town/{entry['id']}_images.png",
        semantic=lambda entry: f"town/{entry['id']}_semantic.png",
    )
    samples = read_coco_panoptic(**tiny.reader_arguments, names=names)
    assert samples[0]["file_name"] == str(tiny.folder / "images" / "town" / "1_images.png")
    assert samples[0]["sem_seg_file_name"] == str(tiny.folder / "semantic" / "town" / "1_semantic.png")


def test_images_of_equal_stems_cannot_share_their_labels(tiny: TinyPanoptic) -> None:
    path = tiny.folder / "panoptic.json"
    content = edited(path)
    content["images"][1]["file_name"] = "town/1.png"
    path.write_text(json.dumps(content))
    (tiny.folder / "images" / "town").mkdir()
    (tiny.folder / "images" / "2.png").rename(tiny.folder / "images" / "town" / "1.png")
    with pytest.raises(DatasetError, match=r"semantic/1\.png: label map of 2 samples"):
        read_coco_panoptic(**tiny.reader_arguments)


def test_a_label_map_beyond_the_vocabulary_is_refused(tiny: TinyPanoptic) -> None:
    with pytest.raises(DatasetError, match=r"label_map has 20 -> 3, beyond classes 0\.\.2"):
        read_coco_panoptic(**{**tiny.reader_arguments, "class_of_id": {3: 0, 7: 1, 20: 3}})
