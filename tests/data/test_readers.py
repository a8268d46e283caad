# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Readers of COCO's JSON, panoptic PNGs and folders of label maps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.panoptic import TinyPanoptic, write_tiny_panoptic
from PIL import Image
from pycocotools import mask as coco_mask

from cmpf.data.datasets.issues import Issue, IssueKind, Issues
from cmpf.data.datasets.readers import (
    FileNames,
    read_coco_instances,
    read_coco_panoptic,
    read_lvis,
    read_semantic,
)
from cmpf.data.datasets.readers.folders import Categories, check_class_of_id, check_files, find_images
from cmpf.data.vocabulary import Vocabulary
from cmpf.errors import DatasetError
from cmpf.types import Sample

WORDS = Vocabulary(classes=[["animal", "cat"], ["cat"]], things=[1])
NAMES = {5: "cat", 9: "plant"}


def test_names_of_classes_go_before_synonyms_and_unknown_categories_are_issues() -> None:
    categories = Categories(NAMES, WORDS, None)
    assert categories.index(5) == 1
    assert categories.is_thing == (False, True)
    assert categories.index(9, "a.png") is None
    assert categories.index(9, "b.png") is None
    assert categories.index(10, "b.png") is None
    issues = Issues()
    categories.report(Path("a.json"), issues)
    assert [issue.message for issue in issues.found] == [
        "category id 9, 'plant', is no class of the vocabulary; used 2 times, in a.png, b.png",
        "category id 10, which categories does not list, is no class of the vocabulary; used once, in b.png",
    ]


def test_where_things_are_wanted_stuff_is_as_wrong_as_an_unknown_category() -> None:
    categories = Categories(NAMES, WORDS, {5: 1, 9: 0}, things_only=True)
    categories.index(5, "a.png")
    categories.index(9, "a.png")
    issues = Issues()
    categories.report(Path("a.json"), issues)
    (issue,) = issues.found
    assert issue.message == "category id 9, 'plant', is no thing class of the vocabulary; used once, in a.png"


def test_class_of_id_makes_names_unimportant() -> None:
    categories = Categories(NAMES, WORDS, {9: 0})
    assert categories.index(9) == 0


def test_class_indices_beyond_the_vocabulary_are_an_issue() -> None:
    issues = Issues()
    check_class_of_id({1: 0, 2: 1, 3: 2, 4: -1}, WORDS, Path("a.json"), issues)
    assert [issue.message for issue in issues.found] == ["label_map has 3 -> 2, 4 -> -1, beyond classes 0..1"]
    check_class_of_id(None, WORDS, Path("a.json"), issues)
    assert len(issues.found) == 1


@pytest.fixture
def tiny(tmp_path: Path) -> TinyPanoptic:
    return write_tiny_panoptic(tmp_path, count=3, crowd=True)


def read(tiny: TinyPanoptic, **changes: Any) -> list[Sample]:
    """Samples of the tiny dataset, read with other arguments."""
    return read_coco_panoptic(**{**tiny.reader_arguments, **changes})


def edited(path: Path) -> Any:
    """The content of a JSON file, to be changed and written back."""
    return json.loads(path.read_text())


def test_a_tiny_dataset_is_read_whole(tiny: TinyPanoptic) -> None:
    samples = read(tiny)
    assert [sample["image_id"] for sample in samples] == [1, 2, 3]
    for number, sample in enumerate(samples, start=1):
        assert sample["file_name"] == str(tiny.folder / "images" / f"{number}.png")
        assert sample["pan_seg_file_name"] == str(tiny.folder / "panoptic" / f"{number}.png")
        assert sample["sem_seg_file_name"] == str(tiny.folder / "semantic" / f"{number}.png")
        assert (sample["height"], sample["width"]) == (24, 32)


def test_category_ids_become_class_indices_with_the_kind_of_the_vocabulary(tiny: TinyPanoptic) -> None:
    sample = read(tiny)[1]
    ids = tiny.ids[1]
    found = {s["id"]: (s["category_id"], s["isthing"], s["iscrowd"]) for s in sample["segments_info"]}
    # 1 grass (stuff, index 2), 2 dog (1), 3 cat (0), 4 a crowd of dogs
    expected = {2001: (2, False, 0), 2002: (1, True, 0), 2003: (0, True, 0), 2004: (1, True, 1)}
    assert found == {name: expected[name] for name in np.unique(ids[ids > 0])}
    assert all(s["area"] == (ids == s["id"]).sum() for s in sample["segments_info"])


def swap_suffix(name: str) -> str:
    return str(Path(name).with_suffix(".jpg"))


@pytest.mark.parametrize("name", [5, None, ["1.png"]])
def test_a_png_whose_name_is_no_text_is_an_issue_where_images_are_named_by_it(
    tiny: TinyPanoptic, name: Any
) -> None:
    path = tiny.reader_arguments["annotations"]
    content = edited(path)
    content["annotations"][0]["file_name"] = name
    path.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r"entry 0 of annotations: file_name .* is not text"):
        read(tiny, names=FileNames(image_of_png=swap_suffix))


@pytest.mark.parametrize("segment_id", ["x", "5", -1, 2**24, 2**40])
def test_a_segment_id_that_no_png_can_hold_is_an_issue(tiny: TinyPanoptic, segment_id: Any) -> None:
    path = tiny.reader_arguments["annotations"]
    content = edited(path)
    content["annotations"][1]["segments_info"][0]["id"] = segment_id
    path.write_text(json.dumps(content))
    message = f"entry 1 of annotations: segment id {segment_id} is not a whole number from 0 to 16,777,215"
    with pytest.raises(DatasetError, match=message):
        read(tiny)


def test_instances_come_with_class_indices_and_their_masks(tiny: TinyPanoptic) -> None:
    samples = read(tiny)
    for sample, ids in zip(samples, tiny.ids, strict=True):
        assert {a["category_id"] for a in sample["annotations"]} <= {0, 1}
        for annotation in sample["annotations"]:
            assert np.array_equal(coco_mask.decode(annotation["segmentation"]), ids == annotation["id"])


def test_semantic_images_and_instances_are_optional(tiny: TinyPanoptic) -> None:
    sample = read(tiny, semantic=None, instances=None)[0]
    assert "sem_seg_file_name" not in sample
    assert "annotations" not in sample


def test_class_of_id_replaces_names_of_segments(tiny: TinyPanoptic) -> None:
    words = Vocabulary(classes=[["lawn"], ["pet"]], things=[1])
    sample = read(tiny, vocabulary=words, class_of_id={3: 1, 7: 1, 20: 0})[0]
    # grass, dog, cat, crowd of dogs, in the order of the file
    assert [s["category_id"] for s in sample["segments_info"]] == [0, 1, 1, 1]
    assert [s["isthing"] for s in sample["segments_info"]] == [False, True, True, True]


def test_a_name_goes_before_a_synonym_of_another_class(tiny: TinyPanoptic) -> None:
    words = Vocabulary(classes=[["animal", "cat", "dog"], ["cat"], ["lawn", "grass"]])
    sample = read(tiny, vocabulary=words)[0]
    assert [s["category_id"] for s in sample["segments_info"]] == [2, 0, 1, 0]


def test_reading_opens_no_image(tiny: TinyPanoptic) -> None:
    for path in tiny.folder.glob("*/*.png"):
        path.write_bytes(b"")
    assert len(read(tiny)) == 3


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
        read(tiny)
    message = str(caught.value)
    images = tiny.folder / "images"
    for part in (
        f"{path}: ",
        "image id 3 is given twice: 3.png and 3.png",
        "annotation 1.png is of image 77, not in images",
        "image 2 has two annotations: 2.png and 2.png",
        f"{images / '1.png'}: has no annotation in panoptic.json",
        f"{images / '2.png'}: no such image",
        f"{tiny.folder / 'semantic' / '3.png'}: no such label map",
        "segment id 3001 of 3.png is given twice",
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
        read(tiny)


def test_a_missing_folder_counts_as_missing_files(tiny: TinyPanoptic) -> None:
    with pytest.raises(DatasetError, match=r"missing file \(3\): \S+1\.png: no such image"):
        read(tiny, images=tiny.folder / "nowhere")


def test_images_in_subfolders_are_found(tiny: TinyPanoptic) -> None:
    path = tiny.folder / "panoptic.json"
    content = edited(path)
    content["images"][0]["file_name"] = "town/1.png"
    path.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r"missing file \(1\): \S+town/1\.png: no such image"):
        read(tiny)
    (tiny.folder / "images" / "town").mkdir()
    (tiny.folder / "images" / "1.png").rename(tiny.folder / "images" / "town" / "1.png")
    assert len(read(tiny)) == 3


def test_categories_that_the_vocabulary_lacks_are_named(tiny: TinyPanoptic) -> None:
    words = Vocabulary(classes=[["dog"], ["grass"]])
    with pytest.raises(DatasetError, match=r"category id 3, 'cat', is no class of the vocabulary"):
        read(tiny, vocabulary=words)


def test_instances_of_other_images_and_doubled_ids_are_refused(tiny: TinyPanoptic) -> None:
    path = tiny.folder / "instances.json"
    content = edited(path)
    content["annotations"][0]["image_id"] = 99
    content["annotations"].append(content["annotations"][1])
    path.write_text(json.dumps(content))
    double = content["annotations"][1]["id"]
    message = rf"annotation \d+ is of image 99, not in images; .*annotation id {double} is given twice"
    with pytest.raises(DatasetError, match=message):
        read(tiny)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"panoptic\.json: damaged file \(1\): not a complete JSON file"),
        ('{"images": [', r"panoptic\.json: damaged file \(1\): not a complete JSON file"),
        (
            "[]",
            r"panoptic\.json: wrong kind of JSON file \(1\): holds a list, as results of a model do; expected",
        ),
        (
            '{"images": [], "annotations": 5}',
            "holds no COCO ground truth: it has no list 'annotations'; expected",
        ),
        (
            '{"images": [{"id": 1}, 3], "annotations": [{"segments_info": []}, 4], "categories": []}',
            r"not in COCO format \(4\): entry 0 of images: has no 'file_name', "
            "entry 1 of images: 3 is no JSON object, entry 0 of annotations: has no 'image_id', ",
        ),
    ],
)
def test_damaged_annotation_files_are_named(tiny: TinyPanoptic, text: str, message: str) -> None:
    (tiny.folder / "panoptic.json").write_text(text)
    with pytest.raises(DatasetError, match=message):
        read(tiny)


def test_damaged_instance_files_are_named(tiny: TinyPanoptic) -> None:
    path = tiny.folder / "instances.json"
    for text, message in (
        ('{"annotations": [], "categories": []}', "wrong kind .* no list 'images'; expected COCO instances"),
        (
            '{"images": [], "annotations": [{"id": 1}], "categories": []}',
            "wrong kind .* that have 'segmentation'",
        ),
        (
            '{"images": [], "annotations": [{"id": 1, "image_id": 1, "segmentation": []}], "categories": []}',
            r"not in COCO format \(1\): .*instances\.json: entry 0 of annotations: has no 'category_id'",
        ),
    ):
        path.write_text(text)
        with pytest.raises(DatasetError, match=message):
            read(tiny)
    path.unlink()
    with pytest.raises(
        DatasetError, match=r"missing file \(1\): \S+instances\.json: no such annotation file"
    ):
        read(tiny)


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
    samples = read(tiny, names=names)
    assert samples[0]["file_name"] == str(tiny.folder / "images" / "town" / "1_images.png")
    assert samples[0]["sem_seg_file_name"] == str(tiny.folder / "semantic" / "town" / "1_semantic.png")


def test_images_of_equal_stems_cannot_share_their_labels(tiny: TinyPanoptic) -> None:
    path = tiny.folder / "panoptic.json"
    content = edited(path)
    content["images"][1]["file_name"] = "town/1.png"
    path.write_text(json.dumps(content))
    (tiny.folder / "images" / "town").mkdir()
    (tiny.folder / "images" / "2.png").rename(tiny.folder / "images" / "town" / "1.png")
    with pytest.raises(DatasetError, match=r"semantic/1\.png: label map of both images 1 and 2"):
        read(tiny)


def test_class_indices_beyond_the_vocabulary_is_refused(tiny: TinyPanoptic) -> None:
    with pytest.raises(DatasetError, match=r"label_map has 20 -> 3, beyond classes 0\.\.2"):
        read(tiny, class_of_id={3: 0, 7: 1, 20: 3})


PETS = Vocabulary(classes=[["cat"], ["dog"]])
LISTED = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]
TRIANGLE = [[0.0, 0.0, 4.0, 0.0, 4.0, 4.0]]


def image(number: int, **more: Any) -> dict[str, Any]:
    return {"id": number, "file_name": f"{number}.jpg", "height": 5, "width": 6, **more}


def annotation(number: int, image: int, **more: Any) -> dict[str, Any]:
    return {
        "id": number,
        "image_id": image,
        "category_id": 7,
        "segmentation": TRIANGLE,
        "iscrowd": 0,
        **more,
    }


def write(
    folder: Path, images: list[Any], annotations: list[Any], names: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Writes a dataset, and returns the reader's arguments."""
    for name in names or tuple(f"{entry['id']}.jpg" for entry in images):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    path = folder / "instances.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": LISTED}))
    return {"images": folder, "annotations": path, "vocabulary": PETS}


def test_images_come_in_the_order_of_the_file_with_their_objects(tmp_path: Path) -> None:
    crowd = annotation(12, 2, iscrowd=1, category_id=3, segmentation={"size": [5, 6], "counts": [0, 30]})
    arguments = write(tmp_path, [image(2), image(1)], [annotation(11, 2), crowd])
    samples = read_coco_instances(**arguments)
    assert [sample["image_id"] for sample in samples] == [2, 1]
    assert samples[0]["file_name"] == str(tmp_path / "2.jpg")
    assert (samples[0]["height"], samples[0]["width"]) == (5, 6)
    assert [(a["id"], a["category_id"], a["iscrowd"]) for a in samples[0]["annotations"]] == [
        (11, 1, 0),
        (12, 0, 1),
    ]
    assert samples[1]["annotations"] == []


def test_class_of_id_replaces_names_of_objects(tmp_path: Path) -> None:
    arguments = write(tmp_path, [image(1)], [annotation(11, 1)])
    samples = read_coco_instances(**arguments, class_of_id={7: 0})
    assert samples[0]["annotations"][0]["category_id"] == 0


def test_all_issues_come_in_one_message(tmp_path: Path) -> None:
    arguments = write(
        tmp_path,
        [image(1), image(2), image(2)],
        [
            annotation(11, 9),
            annotation(12, 1, category_id=4),
            annotation(13, 1, segmentation=[[0.0, 0.0, 4.0, 4.0]]),
            annotation(13, 1),
            annotation(14, 1, segmentation={"size": [6, 5], "counts": "abc"}),
        ],
        names=("1.jpg",),
    )
    with pytest.raises(DatasetError) as caught:
        read_coco_instances(**arguments)
    message = str(caught.value)
    for part in (
        f"{arguments['annotations']}: ",
        "image id 2 is given twice: 2.jpg and 2.jpg",
        "without counterpart (1): annotation 11 is of image 9, not in images",
        "category id 4, which categories does not list, is no class of the vocabulary; used once, in 1.jpg",
        "format (1): mask of annotation 13 in 1.jpg: a polygon needs three points, x and y of each",
        "different sizes (1): mask of annotation 14 in 1.jpg: run lengths of size [6, 5] in an image of [5, 6]",
        "annotation id 13 is given twice",
        f"missing file (1): {tmp_path / '2.jpg'}: no such image",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("images", "annotations", "message"),
    [
        ([{"id": 1}], [], r"\(1\): entry 0 of images: has no 'file_name'"),
        (
            [image(1)],
            [annotation(1, 1), {"id": 2, "image_id": 1, "category_id": 3}],
            r"\(1\): entry 1 of annotations: has no 'segmentation'",
        ),
        ([7], [], r"\(1\): entry 0 of images: 7 is no JSON object"),
    ],
)
def test_damaged_entries_are_told(
    tmp_path: Path, images: list[Any], annotations: list[Any], message: str
) -> None:
    arguments = write(tmp_path, images, annotations, names=("1.jpg",))
    with pytest.raises(DatasetError, match=rf"instances\.json: not in COCO format {message}"):
        read_coco_instances(**arguments)


def test_lvis_images_lie_where_their_address_says(tmp_path: Path) -> None:
    lists = {"neg_category_ids": [3], "not_exhaustive_category_ids": [7, 3]}
    images = [
        image(1, coco_url="http://images.cocodataset.org/train2017/000000000001.jpg", **lists),
        image(2, coco_url="http://images.cocodataset.org/val2017/000000000002.jpg", **{k: [] for k in lists}),
    ]
    for entry in images:
        del entry["file_name"]
    names = ("train2017/000000000001.jpg", "val2017/000000000002.jpg")
    samples = read_lvis(**write(tmp_path, images, [annotation(11, 1)], names))
    assert [sample["file_name"] for sample in samples] == [str(tmp_path / name) for name in names]
    assert (samples[0]["neg_category_ids"], samples[0]["not_exhaustive_category_ids"]) == ([0], [1, 0])
    assert samples[1]["neg_category_ids"] == []
    assert samples[0]["annotations"][0]["category_id"] == 1


def test_lvis_without_its_lists_is_refused(tmp_path: Path) -> None:
    arguments = write(tmp_path, [image(1)], [])
    with pytest.raises(
        DatasetError, match="image 1 has no list neg_category_ids, image 1 has no list not_exh"
    ):
        read_lvis(**arguments)
    with pytest.raises(
        DatasetError, match=r"not in COCO format \(1\): entry 0 of images: 'int' object has no"
    ):
        read_lvis(**write(tmp_path, [image(1, coco_url=5)], []))


def test_instances_join_images_of_the_same_id_or_else_the_same_stem(tiny: TinyPanoptic) -> None:
    """ADE20K: the panoptic file calls an image by its stem, the instances file numbers it."""
    path = tiny.folder / "panoptic.json"
    content = edited(path)
    content["images"][0]["id"] = content["annotations"][0]["image_id"] = "1"
    path.write_text(json.dumps(content))
    for sample, ids in zip(read(tiny), tiny.ids, strict=True):
        things = [s["id"] for s in sample["segments_info"] if s["isthing"]]
        assert [a["id"] for a in sample["annotations"]] == things
        assert set(things) <= set(ids.flat)


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


def test_folders_behind_links_are_searched(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere", "a.png")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "town").symlink_to(tmp_path / "elsewhere")
    assert list(find_images(tmp_path / "here", suffix="", issues=Issues())) == ["town/a"]


def test_missing_files_are_issues(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.png")
    issues = Issues()
    a, b, c = (str(tmp_path / f"{name}.png") for name in "abc")
    samples: list[Sample] = [{"file_name": a, "sem_seg_file_name": c}, {"file_name": b}]
    check_files(samples, issues)
    assert issues.found == [Issue(IssueKind.MISSING, Path(c), "no such label map")]


GROUND = Vocabulary(classes=[["road"], ["sky"]])


def read_folders(folder: Path, **options: Any) -> Any:
    arguments = {"images": folder / "images", "labels": folder / "labels", "vocabulary": GROUND}
    return read_semantic(**{**arguments, **options})


def test_images_and_labels_are_paired_by_stem_in_the_order_of_names(tmp_path: Path) -> None:
    touch(tmp_path, "images/b.jpg", "images/a.jpg", "labels/a.png", "labels/b.tif")
    assert read_folders(tmp_path) == [
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
    samples = read_folders(tmp_path, image_suffix="_leftImg8bit", label_suffix="_gtFine_labelTrainIds")
    assert [sample["image_id"] for sample in samples] == ["bonn/x", "ulm/x"]
    assert samples[0]["sem_seg_file_name"].endswith("bonn/x_gtFine_labelTrainIds.png")


def test_orphans_on_both_sides_and_doubles_come_in_one_message(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg", "images/c.jpg", "images/c.png", "labels/b.png", "labels/c.png")
    with pytest.raises(DatasetError) as caught:
        read_folders(tmp_path, class_of_id={0: 7})
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
        read_folders(tmp_path)


def test_empty_folders_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg", "labels/a.png")
    with pytest.raises(
        DatasetError, match=r"images: no images named \*_leftImg8bit in it .*prepare it again"
    ):
        read_folders(tmp_path, image_suffix="_leftImg8bit", label_suffix="_leftImg8bit")
    with pytest.raises(DatasetError, match=r"images: no images in it \(of \.jpg"):
        read_folders(tmp_path / "empty")
