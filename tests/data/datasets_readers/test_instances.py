# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cmpf.data.datasets.issues import Issues
from cmpf.data.datasets.readers import read_coco_instances, read_lvis
from cmpf.data.datasets.readers.instances import add_instances
from cmpf.data.vocabulary import Vocabulary
from cmpf.errors import DatasetError

WORDS = Vocabulary(classes=[["cat"], ["dog"]])
CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]
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
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": CATEGORIES}))
    return {"images": folder, "annotations": path, "vocabulary": WORDS}


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


def test_a_label_map_replaces_names(tmp_path: Path) -> None:
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
        "image id 2 is given 2 times",
        "without partner (1): annotation 11 is of image 9, not in images",
        "category id 4, which categories does not list, is no class of the vocabulary; used once, in image 1",
        "(2): mask of annotation 13: a polygon needs three points, x and y of each, "
        "mask of annotation 14: run lengths of size [6, 5] in an image of [5, 6]",
        "annotation id 13 is given 2 times",
        f"missing file (1): {tmp_path / '2.jpg'}: no such image",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("images", "annotations", "message"),
    [
        ([{"id": 1}], [], "an entry has no 'file_name'"),
        ([image(1)], [{"id": 1, "image_id": 1, "category_id": 3}], "an entry has no 'segmentation'"),
        ([7], [], "not in COCO's form"),
    ],
)
def test_damaged_entries_are_told(
    tmp_path: Path, images: list[Any], annotations: list[Any], message: str
) -> None:
    arguments = write(tmp_path, images, annotations, names=("1.jpg",))
    with pytest.raises(DatasetError, match=rf"instances\.json: not in COCO's form.*{message}|{message}"):
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
    with pytest.raises(DatasetError, match="an entry has no 'neg_category_ids'"):
        read_lvis(**arguments)
    with pytest.raises(DatasetError, match="not in COCO's form"):
        read_lvis(**write(tmp_path, [image(1, coco_url=5)], []))


def test_instances_join_images_of_the_same_id_or_else_the_same_stem(tmp_path: Path) -> None:
    """ADE20K: the panoptic file calls an image by its stem, the instances file numbers it."""
    arguments = write(
        tmp_path, [image(1), {**image(5), "file_name": "b.jpg"}], [annotation(11, 1), annotation(12, 5)]
    )
    samples: Any = {
        "a": {"file_name": "images/1.jpg", "height": 5, "width": 6},
        5: {"file_name": "images/c.jpg", "height": 5, "width": 6},
    }
    add_instances(samples, arguments["annotations"], WORDS, None, Issues())
    assert [a["id"] for a in samples["a"]["annotations"]] == [11]
    assert [a["id"] for a in samples[5]["annotations"]] == [12]
