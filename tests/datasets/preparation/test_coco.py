# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from preparation.coco import categories, instance_annotation, read_json, segments_info, write_json
from pycocotools import mask as rle

from cmpf.errors import DatasetError


def test_segments_have_area_and_box_and_void_is_none() -> None:
    ids = np.zeros((4, 5), dtype=np.int64)
    ids[1:3, 1:4] = 515
    ids[2, 2] = 70_000
    ids[0, 4] = 515
    assert segments_info(ids, lambda value: value % 10) == [
        # 2 x 3 block, less the pixel of the other segment, plus the corner: 6 - 1 + 1; columns 1..4, rows 0..2.
        {"id": 515, "category_id": 5, "area": 6, "bbox": [1, 0, 4, 3], "iscrowd": 0},
        {"id": 70_000, "category_id": 0, "area": 1, "bbox": [2, 2, 1, 1], "iscrowd": 0},
    ]
    assert segments_info(np.zeros((2, 2), dtype=np.int64), int) == []


def test_an_annotation_holds_the_mask_as_text_that_json_can_write() -> None:
    mask = np.zeros((5, 7), dtype=bool)
    mask[1:4, 2:6] = True
    annotation = json.loads(json.dumps(instance_annotation(mask, category_id=3, iscrowd=1)))
    assert np.array_equal(rle.decode(annotation["segmentation"]).astype(bool), mask)
    del annotation["segmentation"]
    assert annotation == {"category_id": 3, "iscrowd": 1, "area": 12, "bbox": [2, 1, 4, 3]}


def test_categories_count_from_the_first_id() -> None:
    assert categories(["a", "b"], [True, False], first=1) == [
        {"id": 1, "name": "a", "isthing": 1},
        {"id": 2, "name": "b", "isthing": 0},
    ]
    with pytest.raises(ValueError, match="shorter"):
        categories(["a", "b"], [True])


def test_json_files_are_read_whole_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(DatasetError, match=r"a\.json: cannot be read \(No such file"):
        read_json(path)
    write_json(path, {"images": [1], "annotations": {}})
    assert read_json(path, ("images",)) == {"images": [1], "annotations": {}}
    with pytest.raises(DatasetError, match="not in COCO's form, it has no list 'annotations'"):
        read_json(path, ("images", "annotations"))
    path.write_text(path.read_text()[:9])
    with pytest.raises(DatasetError, match="damaged, no whole JSON file"):
        read_json(path)
    path.write_text("[1]")
    with pytest.raises(DatasetError, match="no list 'images'"):
        read_json(path, ("images",))
