# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.raw_datasets.common import photo, polygon, uncompressed_rle
from preparation import Check, Issue, check_instances, instance_annotation

MASK = np.zeros((4, 6), dtype=bool)
MASK[1:3, 2:5] = True
COMPRESSED = instance_annotation(MASK, category_id=1)["segmentation"]


def check(folder: Path, segmentation: object) -> list[Issue]:
    photo(folder / "a.jpg", seed=0, height=4, width=6)
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 4, "width": 6}],
        "annotations": [{"id": 5, "image_id": 1, "category_id": 1, "segmentation": segmentation}],
        "categories": [{"id": 1, "name": "ant"}],
    }
    (folder / "a.json").write_text(json.dumps(content))
    found: Check = check_instances(
        title="instances",
        json=folder / "a.json",
        image_of=lambda image: folder / image["file_name"],
        category_ids=[1],
    )
    assert found.examine is not None
    return [*found.issues, *(issue for item in found.items for issue in found.examine(item))]


@pytest.mark.parametrize("segmentation", [polygon(MASK), uncompressed_rle(MASK), COMPRESSED])
def test_every_form_of_mask_is_accepted(tmp_path: Path, segmentation: object) -> None:
    assert check(tmp_path, segmentation) == []


@pytest.mark.parametrize(
    ("segmentation", "expected"),
    [
        ([], "polygons need three points or more"),
        ([[0, 0, 1, 1]], "polygons need three points or more"),
        (None, "neither RLE nor polygons"),
        ({"size": [4, 6]}, "neither RLE nor polygons"),
        (uncompressed_rle(MASK[:, :5]), "RLE of size [4, 5], image [4, 6]"),
        (uncompressed_rle(np.zeros((4, 6), dtype=bool)), "empty"),
    ],
)
def test_masks_that_are_wrong_are_named(tmp_path: Path, segmentation: object, expected: str) -> None:
    name = f"annotation 5 of {tmp_path / 'a.jpg'}: {expected}"
    assert check(tmp_path, segmentation) == [Issue("masks that are wrong", name)]
