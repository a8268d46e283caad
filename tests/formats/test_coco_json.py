# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cmpf.errors import DatasetError
from cmpf.formats.coco_json import (
    category_entries,
    coco_form,
    instance_entry,
    kind_issue,
    lvis_image_name,
    read_coco,
    read_json,
    segments_info,
    write_json,
)
from cmpf.formats.masks import decode_mask

PANOPTIC = {"images": [], "annotations": [{"segments_info": []}], "categories": []}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert read_json(write_json(tmp_path / "a.json", {"name": "\u00e4pfel"})) == {"name": "\u00e4pfel"}


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(DatasetError, match=r"a\.json: cannot be read \(No such file"):
        read_json(path)
    for content in (b"", b'{"images": [', b"\xff\xfe"):
        path.write_bytes(content)
        with pytest.raises(DatasetError, match=r"a\.json: no whole JSON file"):
            read_coco(path)


def test_a_file_must_have_every_list_that_is_asked_for(tmp_path: Path) -> None:
    path = write_json(tmp_path / "a.json", {"images": [], "categories": {}})
    assert read_coco(path, ["images"]) == {"images": [], "categories": {}}
    with pytest.raises(DatasetError, match=r"a\.json: no COCO file, it has no list 'categories'"):
        read_coco(path, ["images", "categories"])
    with pytest.raises(DatasetError, match="no list 'images'"):
        read_coco(write_json(path, [1, 2]), ["images"])


@pytest.mark.parametrize(
    ("content", "issue"),
    [
        (PANOPTIC, ""),
        ([{"image_id": 1}], "holds a list, as results of a model do"),
        ({"images": []}, "holds no COCO ground truth: it has no list 'annotations'"),
        ({**PANOPTIC, "annotations": []}, "holds no annotations"),
        ({**PANOPTIC, "annotations": [{"segmentation": [], "caption": ""}]}, "holds COCO captions"),
        ({**PANOPTIC, "annotations": [7]}, "holds annotations of no kind that is known"),
    ],
)
def test_the_kind_of_a_file_is_told_by_its_annotations(content: Any, issue: str) -> None:
    found = kind_issue(content, "panoptic")
    assert found.startswith(issue)
    assert not issue or found.endswith("expected COCO panoptic, with annotations that have 'segments_info'")


def test_entries_of_another_form_are_named() -> None:
    with (
        pytest.raises(DatasetError, match=r"a\.json: not in COCO's form: an entry has no 'width'"),
        coco_form("a.json"),
    ):
        {}["width"]
    with pytest.raises(DatasetError, match="in COCO's form: 'int' object is not"), coco_form("a.json"):
        list(3)  # type: ignore[call-overload]


def test_lvis_names_images_by_their_address() -> None:
    assert lvis_image_name({"coco_url": "http://images.org/train2017/7.jpg"}) == "train2017/7.jpg"
    assert lvis_image_name({"file_name": "7.jpg"}) == "7.jpg"


def test_entries_tell_what_is_drawn() -> None:
    ids = np.array([[0, 300, 300], [7, 300, 0]])
    assert segments_info(ids, lambda value: value % 10) == [
        {"id": 7, "category_id": 7, "area": 1, "bbox": [0, 1, 1, 1], "iscrowd": 0},
        {"id": 300, "category_id": 0, "area": 3, "bbox": [1, 0, 2, 2], "iscrowd": 0},
    ]
    entry = json.loads(json.dumps(instance_entry(ids == 300, category_id=4, iscrowd=1)))
    mask = decode_mask(entry.pop("segmentation"), height=2, width=3, where="")
    assert mask.tolist() == (ids == 300).tolist()
    assert entry == {"category_id": 4, "iscrowd": 1, "area": 3, "bbox": [1, 0, 2, 2]}
    assert category_entries(["cat", "sky"], [True, False], first=1) == [
        {"id": 1, "name": "cat", "isthing": 1},
        {"id": 2, "name": "sky", "isthing": 0},
    ]


def test_a_file_of_brackets_alone_is_an_error_of_the_dataset(tmp_path: Path) -> None:
    (tmp_path / "deep.json").write_text("[" * 200_000, encoding="utf-8")
    with pytest.raises(DatasetError, match=r"deep\.json: no whole JSON file"):
        read_json(tmp_path / "deep.json")
