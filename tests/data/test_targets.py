# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cmpf.data.mapper import (
    InstanceTargets,
    PanopticTargets,
    SemanticTargets,
    panoptic_targets,
    read_panoptic_ids,
    semantic_targets,
)
from cmpf.errors import DatasetError
from cmpf.types import Sample, SegmentInfo

# An image drawn by hand: void (0) at the top, segment 7 at the left, 300 = 44 + 256 * 1 at the right,
# 65793 = 1 + 256 * 1 + 65536 * 1 at the bottom.
DRAWN = np.array(
    [
        [0, 0, 0, 0],
        [7, 7, 300, 300],
        [7, 7, 300, 300],
        [65793, 65793, 65793, 300],
    ]
)
COLORS = {0: (0, 0, 0), 7: (7, 0, 0), 300: (44, 1, 0), 65793: (1, 1, 1)}
SEGMENTS: list[SegmentInfo] = [
    {"id": 300, "category_id": 4, "iscrowd": 0},
    {"id": 7, "category_id": 2, "iscrowd": 0},
    {"id": 65793, "category_id": 4, "iscrowd": 0},
]


def write_drawn(path: Path) -> Path:
    rgb = np.array([[COLORS[i] for i in row] for row in DRAWN.tolist()], np.uint8)
    Image.fromarray(rgb).save(path)
    return path


def test_the_hand_drawn_png_gives_its_ids(tmp_path: Path) -> None:
    ids = read_panoptic_ids(write_drawn(tmp_path / "drawn.png"))
    assert ids.dtype == np.int32
    assert np.array_equal(ids, DRAWN)


def test_every_listed_segment_becomes_a_target_in_the_order_of_the_list() -> None:
    targets = panoptic_targets(DRAWN.astype(np.int32), SEGMENTS)
    assert targets["labels"].tolist() == [4, 2, 4]
    assert targets["labels"].dtype == torch.int64
    assert targets["masks"].dtype == torch.bool
    # right part: two rows of two, and the corner; left: two rows of two; bottom: three
    assert targets["masks"].sum(dim=(1, 2)).tolist() == [5, 4, 3]
    assert targets["masks"][1].tolist() == (DRAWN == 7).tolist()


def test_crowds_void_and_unlisted_ids_are_no_targets() -> None:
    segments: list[SegmentInfo] = [{**SEGMENTS[0], "iscrowd": 1}, SEGMENTS[1]]
    targets = panoptic_targets(DRAWN.astype(np.int32), segments)
    assert targets["labels"].tolist() == [2]
    assert not targets["masks"][:, 0].any()  # void row
    assert not targets["masks"][:, 3].any()  # the unlisted segment, and the crowd's corner


def test_segments_without_a_pixel_are_left_out() -> None:
    targets = panoptic_targets(DRAWN[:2].astype(np.int32), SEGMENTS)
    assert targets["labels"].tolist() == [4, 2]
    assert targets["masks"].shape == (2, 2, 4)


@pytest.mark.parametrize("segments", [[], [{"id": 7, "category_id": 0, "iscrowd": 1}]])
def test_an_image_without_targets_gives_empty_tensors(segments: list[SegmentInfo]) -> None:
    targets = panoptic_targets(DRAWN.astype(np.int32), segments)
    assert targets["labels"].shape == (0,)
    assert targets["masks"].shape == (0, 4, 4)


def test_random_images_agree_with_a_loop_over_pixels() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        ids = generator.integers(0, 6, (5, 7)).astype(np.int32)
        segments: list[SegmentInfo] = [
            {"id": i, "category_id": int(generator.integers(9)), "iscrowd": int(generator.random() < 0.3)}
            for i in range(1, 8)
        ]
        expected = []
        for segment in segments:
            mask = [[pixel == segment["id"] for pixel in row] for row in ids.tolist()]
            if not segment["iscrowd"] and any(map(any, mask)):
                expected.append((segment["category_id"], mask))
        targets = panoptic_targets(ids, segments)
        assert list(zip(targets["labels"].tolist(), targets["masks"].tolist(), strict=True)) == expected


def test_the_target_source_reads_and_builds_from_a_sample(tmp_path: Path) -> None:
    source = PanopticTargets()
    path = write_drawn(tmp_path / "drawn.png")
    ids = source.read({"pan_seg_file_name": str(path)})
    mirrored = source.build(ids[:, ::-1], {"segments_info": SEGMENTS})
    assert mirrored["masks"][1].tolist() == (DRAWN[:, ::-1] == 7).tolist()
    assert source.label_pad == 0


def test_every_class_of_a_map_becomes_one_target() -> None:
    targets = semantic_targets(np.array([[5, -1, 2], [2, 5, 5]], np.int32))
    assert targets["labels"].tolist() == [2, 5]
    assert targets["labels"].dtype == torch.int64
    assert targets["masks"].dtype == torch.bool
    assert targets["masks"].tolist() == [
        [[False, False, True], [True, False, False]],
        [[True, False, False], [False, True, True]],
    ]


def test_a_map_without_classes_gives_empty_tensors() -> None:
    targets = semantic_targets(np.full((2, 3), -1, np.int32))
    assert targets["labels"].shape == (0,)
    assert targets["masks"].shape == (0, 2, 3)


def test_semantic_targets_come_from_a_sixteen_bit_file_through_its_label_map(tmp_path: Path) -> None:
    path = tmp_path / "labels.tif"
    Image.fromarray(np.array([[300, 65535], [7, 300]], np.uint16)).save(path)
    source = SemanticTargets(num_classes=2, ignore_label=65535, class_of_id={300: 0, 7: 1})
    sample: Sample = {"sem_seg_file_name": str(path)}
    labels = source.read(sample)
    targets = source.build(labels[:, ::-1], sample)
    assert targets["labels"].tolist() == [0, 1]
    assert targets["masks"].tolist() == [[[False, True], [True, False]], [[False, False], [False, True]]]
    assert source.label_pad == -1  # padding is no class


SQUARE = [[1.0, 0.0, 3.0, 0.0, 3.0, 2.0, 1.0, 2.0]]  # columns 1 and 2 of rows 0 and 1


def instance_sample() -> Sample:
    """A square, a crowd, and all but the first pixel of a 3 x 4 image, the last two as run lengths."""
    return {
        "file_name": "a.jpg",
        "height": 3,
        "width": 4,
        "annotations": [
            {"id": 1, "category_id": 5, "segmentation": SQUARE, "iscrowd": 0},
            {"id": 2, "category_id": 5, "segmentation": {"size": [3, 4], "counts": [0, 12]}, "iscrowd": 1},
            {"id": 3, "category_id": 2, "segmentation": {"size": [3, 4], "counts": [1, 11]}},
        ],
    }


def test_objects_become_targets_that_may_overlap_and_crowds_do_not() -> None:
    source = InstanceTargets()
    masks = source.read(instance_sample())
    targets = source.build(masks, instance_sample())
    assert targets["labels"].tolist() == [5, 2]
    assert targets["labels"].dtype == torch.int64
    square, rest = targets["masks"].tolist()
    assert square == [[False, True, True, False], [False, True, True, False], [False] * 4]
    assert rest == [[False, True, True, True], [True] * 4, [True] * 4]


def test_objects_that_a_crop_left_no_pixel_are_left_out() -> None:
    source = InstanceTargets()
    targets = source.build(source.read(instance_sample())[:, 2:], instance_sample())
    assert targets["labels"].tolist() == [2]
    assert targets["masks"].shape == (1, 1, 4)


def test_an_image_without_objects_gives_empty_tensors() -> None:
    source = InstanceTargets()
    sample: Sample = {**instance_sample(), "annotations": instance_sample()["annotations"][1:2]}
    targets = source.build(source.read(sample), sample)
    assert targets["labels"].shape == (0,)
    assert targets["masks"].shape == (0, 3, 4)


def test_an_unusable_mask_is_named() -> None:
    sample = instance_sample()
    sample["annotations"][0]["segmentation"] = [[1.0, 2.0]]
    with pytest.raises(DatasetError, match=r"a\.jpg: the mask of annotation 1: a polygon needs three points"):
        InstanceTargets().read(sample)


def test_a_gray_panoptic_png_with_transparency_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "half.png"
    Image.new("LA", (4, 3)).save(path)
    with pytest.raises(
        DatasetError, match=r"half\.png: gray with transparency, expected an RGB panoptic PNG"
    ):
        read_panoptic_ids(path)
