# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from cmpf.inference import Instances, Prediction, Segment
from cmpf.visualization import class_color
from cmpf.visualization.palette import shade
from cmpf.web.view import id_map, view_of

H, W = 6, 8


def prediction(**results: object) -> Prediction:
    image = np.full((H, W, 3), 90, dtype=np.uint8)
    none = {"panoptic_result": None, "semantic_result": None, "instances_result": None}
    return Prediction(image=image, names=("sky", "cat", "dog"), source="image_0", **(none | results))  # type: ignore[arg-type]


def panoptic() -> Prediction:
    ids = np.zeros((H, W), dtype=np.int32)
    ids[:2], ids[3:, :3], ids[3:, 5:7] = 1, 2, 7  # 16, 9 and 6 of 48 pixels
    segments = (
        Segment(2, "cat", 1, True, 0.9, 9, (0, 3, 3, 3)),
        Segment(1, "sky", 0, False, 0.8, 16, (0, 0, 8, 2)),
        Segment(7, "cat", 1, True, 0.6, 6, (5, 3, 2, 3)),
    )
    return prediction(panoptic_result=(ids, segments))


def test_panoptic_rows_come_largest_first_with_the_images_colors() -> None:
    view = view_of(panoptic(), "panoptic", name="farm")
    assert [(row.id, row.name, row.kind, row.score) for row in view.rows] == [
        (1, "sky", "stuff", 0.8), (2, "cat", "thing", 0.9), (7, "cat", "thing", 0.6)
    ]  # fmt: skip
    assert [row.share for row in view.rows] == pytest.approx([16 / 48, 9 / 48, 6 / 48])
    assert [row.color for row in view.rows] == [class_color(0), class_color(1), shade(1, 1)]
    assert view.missing == ("dog",)
    tinted = np.asarray(view.tinted)  # far from borders and labels, opacity 1 leaves only the color
    assert (tinted == np.array(class_color(1))).all(axis=-1).any()
    assert (tinted == np.array(shade(1, 1))).all(axis=-1).any()
    assert view.clear.size == view.tinted.size


def test_the_panoptic_file_belongs_to_the_id_map_that_is_downloaded_with_it() -> None:
    view = view_of(panoptic(), "panoptic", name="farm")
    (annotation,) = view.coco["annotations"]
    assert annotation["file_name"] == "farm_ids.png"
    assert {info["id"] for info in annotation["segments_info"]} == {1, 2, 7}
    pixels = np.asarray(id_map(view.ids)).astype(np.int64)
    assert (pixels[..., 0] + 256 * pixels[..., 1] + 65536 * pixels[..., 2] == view.ids).all()


def test_ids_beyond_a_byte_survive_the_id_map() -> None:
    # 70000 = 1 * 65536 + 17 * 256 + 112
    assert np.asarray(id_map(np.array([[70000]], dtype=np.int32))).tolist() == [[[112, 17, 1]]]


def test_semantic_classes_are_rows_without_scores_and_masks_in_the_file() -> None:
    labels = np.zeros((H, W), dtype=np.uint16)
    labels[2:5, 1:3] = 2  # 6 of 48 pixels
    view = view_of(prediction(semantic_result=labels), "semantic", name="farm")
    assert [(row.id, row.name, row.score, row.kind) for row in view.rows] == [
        (1, "sky", None, ""), (3, "dog", None, "")
    ]  # fmt: skip
    assert (view.ids == labels.astype(np.int32) + 1).all()
    assert view.missing == ("cat",)
    assert [category["name"] for category in view.coco["categories"]] == ["sky", "dog"]
    dog = view.coco["annotations"][1]
    assert dog["bbox"] == [1, 2, 2, 3]
    assert (coco_mask.decode(dog["segmentation"]).astype(bool) == (labels == 2)).all()


def test_instances_are_those_of_the_image_and_small_ones_lie_on_top() -> None:
    masks = np.zeros((4, H, W), dtype=bool)
    masks[0, :4], masks[1, 1:3, 2:4], masks[2, :4], masks[3, 5:] = True, True, True, True
    found = Instances(
        masks=masks,
        boxes=np.zeros((4, 4), dtype=np.float32),
        scores=np.array([0.9, 0.8, 0.7, 0.2], dtype=np.float32),
        labels=np.array([1, 2, 1, 0]),
    )
    view = view_of(prediction(instances_result=found), "instance", name="farm")
    # The third covers the same pixels as the first, and the fourth has less than 30 percent: both are left out.
    assert [(row.id, row.name) for row in view.rows] == [(1, "cat"), (2, "dog")]
    assert view.ids[2, 3] == 2
    assert view.ids[0, 0] == 1
    assert view.ids[5, 0] == 0
    assert [a["category_id"] for a in view.coco["annotations"]] == [1, 2]
    assert view.missing == ("sky",)


@pytest.mark.parametrize("task", ["panoptic", "instance"])
def test_a_result_without_segments_is_the_plain_image(task: str) -> None:
    nothing = prediction(
        panoptic_result=(np.zeros((H, W), dtype=np.int32), ()),
        instances_result=Instances(
            np.zeros((0, H, W), dtype=bool), np.zeros((0, 4), dtype=np.float32), np.zeros(0, dtype=np.float32),
            np.zeros(0, dtype=np.int64),
        ),
    )  # fmt: skip
    view = view_of(nothing, task, name="farm")
    assert view.rows == ()
    assert view.missing == ("sky", "cat", "dog")
    assert set(np.asarray(view.tinted).reshape(-1).tolist()) == {90}
    assert isinstance(view.clear, Image.Image)
