# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""COCO files of a scene: JSON and PNG say the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from cmpf.shapeworld import CATEGORIES, Scene, generate_scene
from cmpf.shapeworld.records import Record, coco_categories, write_record


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, Scene, Record]:
    for part in ("images", "panoptic", "semantic"):
        (tmp_path / part).mkdir()
    scene = generate_scene(11, seen_only=False)
    return tmp_path, scene, write_record(scene, tmp_path, image_id=42)


def test_category_ids_are_the_index_plus_one():
    entries = coco_categories(CATEGORIES)
    assert [entry["id"] for entry in entries] == list(range(1, 55))
    assert entries[0] == {"id": 1, "name": "red circle", "isthing": 1}


def test_files_are_named_by_the_image_id(written):
    folder, _, record = written
    assert record.image["file_name"] == "000042.jpg"
    assert record.panoptic["file_name"] == "000042.png"
    assert record.panoptic["image_id"] == record.image["id"] == 42
    for name in ("images/000042.jpg", "panoptic/000042.png", "semantic/000042.png"):
        assert (folder / name).is_file()


def test_the_panoptic_png_holds_the_ids_and_areas_of_the_json(written):
    folder, scene, record = written
    colors = np.asarray(Image.open(folder / "panoptic/000042.png")).astype(np.int32)
    ids = colors[..., 0] + 256 * colors[..., 1] + 65536 * colors[..., 2]
    np.testing.assert_array_equal(ids, scene.ids)
    values, areas = np.unique(ids, return_counts=True)
    listed = {info["id"]: info["area"] for info in record.panoptic["segments_info"]}
    assert listed == dict(zip(values.tolist(), areas.tolist(), strict=True))


def test_boxes_are_tight(written):
    _, scene, record = written
    for info in record.panoptic["segments_info"]:
        rows, columns = np.where(scene.ids == info["id"])
        expected = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        assert info["bbox"] == expected


def test_the_semantic_png_holds_the_contiguous_class_of_each_segment(written):
    folder, scene, record = written
    labels = np.asarray(Image.open(folder / "semantic/000042.png"))
    assert labels.dtype == np.uint8
    for info in record.panoptic["segments_info"]:
        assert set(labels[scene.ids == info["id"]].tolist()) == {info["category_id"] - 1}


def test_instances_are_the_things_and_their_run_lengths_decode_to_the_masks(written):
    _, scene, record = written
    things = [s for s in scene.segments if CATEGORIES[s.category_id].isthing]
    assert len(record.instances) == len(things) > 0
    for annotation, segment in zip(record.instances, things, strict=True):
        mask = coco_mask.decode(annotation["segmentation"])
        np.testing.assert_array_equal(mask, scene.ids == segment.id)
        assert annotation["area"] == mask.sum()
        assert annotation["category_id"] == segment.category_id + 1
        assert annotation["image_id"] == 42


def test_the_jpeg_is_close_to_the_scene(written):
    folder, scene, _ = written
    image = np.asarray(Image.open(folder / "images/000042.jpg")).astype(int)
    assert np.abs(image - scene.image.astype(int)).mean() < 6
