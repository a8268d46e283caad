# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cmpf.data.targets import PanopticTargets, panoptic_targets, read_panoptic_ids
from cmpf.errors import DatasetError
from cmpf.types import SegmentInfo

# A picture drawn by hand: void (0) at the top, segment 7 at the left, 300 = 44 + 256 * 1 at the right,
# 65793 = 1 + 256 * 1 + 65536 * 1 at the bottom.
DRAWN = np.array(
    [
        [0, 0, 0, 0],
        [7, 7, 300, 300],
        [7, 7, 300, 300],
        [65793, 65793, 65793, 300],
    ]
)
COLOURS = {0: (0, 0, 0), 7: (7, 0, 0), 300: (44, 1, 0), 65793: (1, 1, 1)}
SEGMENTS: list[SegmentInfo] = [
    {"id": 300, "category_id": 4, "iscrowd": 0},
    {"id": 7, "category_id": 2, "iscrowd": 0},
    {"id": 65793, "category_id": 4, "iscrowd": 0},
]


def write_drawn(path: Path) -> Path:
    rgb = np.array([[COLOURS[i] for i in row] for row in DRAWN.tolist()], np.uint8)
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
def test_a_picture_without_targets_gives_empty_tensors(segments: list[SegmentInfo]) -> None:
    targets = panoptic_targets(DRAWN.astype(np.int32), segments)
    assert targets["labels"].shape == (0,)
    assert targets["masks"].shape == (0, 4, 4)


def test_random_pictures_agree_with_a_loop_over_pixels() -> None:
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


def test_grey_files_hold_plain_ids(tmp_path: Path) -> None:
    path = tmp_path / "grey.png"
    Image.fromarray(np.array([[0, 3]], np.uint8)).save(path)
    assert read_panoptic_ids(path).tolist() == [[0, 3]]


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    path = write_drawn(tmp_path / "drawn.png")
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DatasetError, match=r"drawn\.png: damaged panoptic PNG .*prepare the dataset again"):
        read_panoptic_ids(path)
    with pytest.raises(DatasetError, match=r"none\.png: no such panoptic PNG"):
        read_panoptic_ids(tmp_path / "none.png")
