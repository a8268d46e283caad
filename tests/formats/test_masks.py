# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Run lengths, polygons and COCO's JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

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
from cmpf.formats.masks import (
    decode_mask,
    encode_mask,
    mask_box,
    rle_area,
    rle_box,
    segmentation_issue,
    to_rle,
    write_arrays,
)
from cmpf.formats.polygons import mask_polygons, one_polygon

MASK = np.array([[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0]], dtype=np.uint8)
# The same square by its corners, as run lengths down the columns (3 rows: 3 + 1 zeros, 2 ones, 1 zero, 2 ones,
# 3 zeros), and packed.
POLYGON = [[1.0, 1.0, 3.0, 1.0, 3.0, 3.0, 1.0, 3.0]]
RUNS = {"size": [3, 4], "counts": [4, 2, 1, 2, 3]}
PACKED = {"size": [3, 4], "counts": coco_mask.encode(np.asfortranarray(MASK))["counts"].decode("ascii")}


@pytest.mark.parametrize("segmentation", [POLYGON, RUNS, PACKED], ids=["polygon", "runs", "packed"])
def test_all_three_forms_give_the_same_mask(segmentation: Any) -> None:
    mask = decode_mask(segmentation, height=3, width=4, where="a.json: mask 7")
    assert mask.dtype == np.bool_
    assert mask.tolist() == MASK.astype(bool).tolist()
    rle = to_rle(segmentation, height=3, width=4, where="")
    assert coco_mask.decode(rle).tolist() == MASK.tolist()
    assert (rle_area(rle), rle_box(rle)) == (4, [1, 1, 2, 2])


def test_several_polygons_are_one_object() -> None:
    left, right = [0.0, 0.0, 1.0, 0.0, 1.0, 3.0, 0.0, 3.0], [3.0, 0.0, 4.0, 0.0, 4.0, 3.0, 3.0, 3.0]
    mask = decode_mask([left, right], height=3, width=4, where="")
    assert mask.tolist() == [[True, False, False, True]] * 3


@pytest.mark.parametrize(
    ("segmentation", "issue"),
    [
        ([], "three points"),
        ([[1.0, 1.0, 2.0, 2.0]], "three points"),
        ([[1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0]], "three points, x and y of each"),
        ([3.0, 4.0], "three points"),
        ([*POLYGON, [1.0, 1.0, 2.0, 2.0]], "three points"),  # pycocotools would take it for a box
        ("abc", "neither polygons nor run lengths"),
        ({"counts": "abc"}, "neither polygons nor run lengths"),
        ({"size": [4, 3], "counts": [12]}, r"size \[4, 3\] in an image of \[3, 4\]"),
        ({"size": None, "counts": [12]}, "size None"),
        ({"size": [3, 4], "counts": [6, "6"]}, "no whole numbers"),
        ({"size": [3, 4], "counts": [5, 6]}, "run lengths of 11 pixels in an image of 12"),
    ],
)
def test_other_forms_are_refused(segmentation: Any, issue: str) -> None:
    assert segmentation_issue(segmentation, height=3, width=4)
    with pytest.raises(DatasetError, match=rf"a\.json: mask 7: .*{issue}.*; repair the annotations"):
        decode_mask(segmentation, height=3, width=4, where="a.json: mask 7")
    with pytest.raises(DatasetError, match=issue):
        to_rle(segmentation, height=3, width=4, where="a.json: mask 7")


def test_good_forms_have_no_issue() -> None:
    assert [segmentation_issue(s, height=3, width=4) for s in (POLYGON, RUNS, PACKED)] == ["", "", ""]


def test_packed_runs_that_go_beyond_the_image_are_refused() -> None:
    large = coco_mask.encode(np.asfortranarray(np.ones((9, 9), np.uint8)))
    segmentation = {"size": [3, 4], "counts": large["counts"].decode("ascii")}
    message = "a.json: mask 7: packed run lengths of 81 pixels, or negative ones, in an image of 12; repair"
    with pytest.raises(DatasetError, match=message):
        decode_mask(segmentation, height=3, width=4, where="a.json: mask 7")
    with pytest.raises(DatasetError, match=message):
        to_rle(segmentation, height=3, width=4, where="a.json: mask 7")


def test_what_is_written_is_json_and_reads_as_it_was() -> None:
    written = json.loads(json.dumps(encode_mask(MASK.astype(bool))))
    assert written == PACKED
    assert mask_box(MASK.astype(bool)) == [1, 1, 2, 2]


# ">N" are 14 and -2 pixels, twelve together. Of run lengths that end too early pycocotools shows memory that is not
# the mask's; a point far away takes all memory.
@pytest.mark.parametrize(
    "counts", ["", "0", "42", "4212", "~~~", ">N", "\xe9", "P" * 40, "o" * 99, b"\xff\xfe", 5, None, "0000o"]
)
def test_packed_runs_that_are_not_those_of_the_image_are_refused(counts: Any) -> None:
    with pytest.raises(DatasetError, match=r"mask 7: packed run lengths .*; repair the annotations"):
        to_rle({"size": [3, 4], "counts": counts}, height=3, width=4, where="a.json: mask 7")


@pytest.mark.parametrize("value", [1e300, -1e9, float("nan"), float("inf"), "1", None, True, [1]])
def test_polygons_with_impossible_points_are_refused(value: Any) -> None:
    polygon = [[1.0, 1.0, 3.0, 1.0, 3.0, value]]
    with pytest.raises(
        DatasetError,
        match=rf"7: a polygon with the coordinate {re.escape(str(value))} in an image of \[3, 4\]",
    ):
        to_rle(polygon, height=3, width=4, where="a.json: mask 7")


def test_random_masks_keep_their_packed_runs() -> None:
    generator = np.random.default_rng(0)
    for _ in range(200):
        height, width = (int(side) for side in generator.integers(1, 60, 2))
        # Stripes of up to hundreds of pixels, and single ones, so that differences are large and of both signs.
        mask = np.repeat(generator.random((height, 6)) < generator.random(), 10, axis=1)[:, :width]
        rle = encode_mask(np.ascontiguousarray(np.pad(mask, ((0, 0), (0, width - mask.shape[1])))))
        assert segmentation_issue(rle, height=height, width=width) == ""


@pytest.mark.parametrize("density", [0.0, 0.1, 0.5, 0.95, 1.0])
def test_packed_runs_are_those_of_pycocotools_for_a_mask_and_for_a_window_of_it(density: float) -> None:
    generator = np.random.default_rng(1)
    for _ in range(40):
        height, width, top, left = (int(side) for side in generator.integers(1, 9, 4))
        window = generator.random((height, width)) < density
        window[:, width // 2 :] |= generator.random() < 0.5  # columns that are inside from end to end
        below, right = (int(side) for side in generator.integers(0, 2, 2))
        for before, after in [((0, 0), (0, 0)), ((top, left), (below, right)), ((0, left), (0, right))]:
            mask = np.pad(window, list(zip(before, after, strict=True)))
            counts = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"].decode("ascii")
            assert encode_mask(mask) == {"size": list(mask.shape), "counts": counts}
            assert encode_mask(window, corner=before, size=mask.shape) == encode_mask(mask)


def test_a_mask_of_an_impossible_image_is_refused_before_memory_is_taken() -> None:
    issue = segmentation_issue([[0, 0, 4, 0, 4, 4]], height=8, width=10**12)
    assert issue == "a mask in an image of [8, 1000000000000], more than 268,435,456 pixels"


def test_arrays_are_written_as_numpy_reads_them(tmp_path: Path) -> None:
    arrays = {
        "masks": np.random.default_rng(0).random((3, 4, 5)) > 0.5,
        "boxes": np.zeros((0, 4), np.float32),
        "scores": np.array([0.5, 0.25], np.float32),
        "names": np.array(["sky", "trottoir roulant"], dtype=str),
    }
    write_arrays(tmp_path / "a.npz", **arrays)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as read:
        assert sorted(read) == sorted(arrays)
        for name, array in arrays.items():
            assert read[name].dtype == array.dtype
            assert np.array_equal(read[name], array)


# Outlines give the mask again, by pycocotools: exactly, or within their tolerance.
def filled(polygons: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """The mask of polygons, as COCO's tools fill them."""
    rings = [polygon.reshape(-1).tolist() for polygon in polygons]
    if not rings:
        return np.zeros((height, width), bool)
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(rings, height, width))).astype(bool)


def test_a_rectangle_has_four_corners() -> None:
    mask = np.zeros((6, 8), bool)
    mask[1:4, 2:7] = True
    (polygon,) = mask_polygons(mask)
    assert {tuple(point) for point in polygon.tolist()} == {(2, 1), (7, 1), (7, 4), (2, 4)}


def test_a_hole_stays_a_hole_and_parts_are_apart_or_joined() -> None:
    mask = np.zeros((12, 20), bool)
    mask[1:11, 1:11], mask[3:6, 4:8], mask[0:3, 14:18] = True, False, True
    polygons = mask_polygons(mask, tolerance=0)
    assert [polygon[:, 0].max() for polygon in polygons] == [11, 18]  # the largest first, not the uppermost
    assert np.array_equal(filled(polygons, 12, 20), mask)
    assert np.array_equal(filled([one_polygon(polygons)], 12, 20), mask)


def test_where_pixels_touch_at_a_corner_the_outline_stays_with_its_pixel() -> None:
    mask = np.array([[0, 1, 1], [1, 0, 1], [1, 1, 1]], bool)
    (polygon,) = mask_polygons(mask, tolerance=0)
    corners = [(1, 0), (3, 0), (3, 3), (0, 3), (0, 1), (1, 1), (1, 2), (2, 2), (2, 1), (1, 1)]
    assert [tuple(point) for point in polygon.tolist()] == corners


def test_without_tolerance_any_mask_comes_back_from_corners_alone() -> None:
    generator = np.random.default_rng(0)  # with holes, and pixels that touch at a corner
    for _ in range(400):
        mask = generator.random(generator.integers(1, 13, 2)) < generator.uniform(0.2, 0.95)
        polygons = mask_polygons(mask, tolerance=0)
        assert np.array_equal(filled(polygons, *mask.shape), mask)
        steps = [np.diff(polygon, axis=0, append=polygon[:1]) for polygon in polygons if not cut(polygon)]
        assert all(((step == 0).sum(axis=1) == 1).all() for step in steps)
        assert all((np.roll(step, 1, axis=0)[:, 0] * step[:, 0] == 0).all() for step in steps)


def cut(polygon: np.ndarray) -> bool:
    """Whether it comes twice to a point: a cut leads to a hole, or pixels touch at a corner."""
    return len(np.unique(polygon, axis=0)) < len(polygon)


def test_a_disk_comes_back_nearly_from_a_tenth_of_its_points() -> None:
    y, x = np.mgrid[:200, :240]
    disk = (y - 100) ** 2 + (x - 120) ** 2 < 80**2
    (exact,), (simple,) = mask_polygons(disk, tolerance=0), mask_polygons(disk)
    again = filled([simple], 200, 240)
    assert (again & disk).sum() / (again | disk).sum() > 0.985
    assert len(simple) < len(exact) / 5


@pytest.mark.parametrize("shape", [(0, 4), (4, 4)])
def test_an_empty_mask_has_no_outline(shape: tuple[int, int]) -> None:
    assert mask_polygons(np.zeros(shape, bool)) == []
    assert one_polygon([]).shape == (0, 2)


PANOPTIC = {"images": [], "annotations": [{"segments_info": []}], "categories": []}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert read_json(write_json(tmp_path / "a.json", {"name": "\u00e4pfel"})) == {"name": "\u00e4pfel"}


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(DatasetError, match=r"a\.json: cannot be read \(No such file"):
        read_json(path)
    for content in (b"", b'{"images": [', b"\xff\xfe"):
        path.write_bytes(content)
        with pytest.raises(DatasetError, match=r"a\.json: not a complete JSON file"):
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
        ({**PANOPTIC, "annotations": [{"caption": "a cat"}]}, "holds COCO captions"),
        ({**PANOPTIC, "annotations": [{"keypoints": [], "segmentation": []}]}, "holds COCO keypoints"),
        ({**PANOPTIC, "annotations": [{"bbox": []}]}, "holds annotations of no kind that is known"),
        ({**PANOPTIC, "annotations": [7]}, "holds annotations of no kind that is known"),
        ("text", "holds no COCO ground truth: it has no list 'images'"),
    ],
)
def test_the_kind_of_a_file_is_told_by_its_annotations(content: Any, issue: str) -> None:
    found = kind_issue(content, "panoptic")
    assert found.startswith(issue)
    assert not issue or found.endswith("; expected COCO panoptic, with annotations that have 'segments_info'")


def test_keypoints_have_masks_too_and_no_object_may_be_marked_where_that_is_allowed() -> None:
    content = {**PANOPTIC, "annotations": [{"keypoints": [], "segmentation": []}]}
    assert kind_issue(content, "instances") == ""
    assert kind_issue({**PANOPTIC, "annotations": []}, "instances", may_be_empty=True) == ""


def test_entries_of_another_form_are_named() -> None:
    with (
        pytest.raises(DatasetError, match=r"a\.json: not in COCO format: an entry has no 'width'"),
        coco_form("a.json"),
    ):
        {}["width"]
    with pytest.raises(DatasetError, match="in COCO format: 'int' object is not"), coco_form("a.json"):
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
    entry = json.loads(json.dumps(instance_entry(ids == 300, category_id=4)))
    mask = decode_mask(entry.pop("segmentation"), height=2, width=3, where="")
    assert mask.tolist() == (ids == 300).tolist()
    assert entry == {"category_id": 4, "iscrowd": 0, "area": 3, "bbox": [1, 0, 2, 2]}
    assert category_entries(["cat", "sky"], [True, False], first=1) == [
        {"id": 1, "name": "cat", "isthing": 1},
        {"id": 2, "name": "sky", "isthing": 0},
    ]


def test_a_file_of_brackets_alone_is_an_error_of_the_dataset(tmp_path: Path) -> None:
    (tmp_path / "deep.json").write_text("[" * 200_000, encoding="utf-8")
    with pytest.raises(DatasetError, match=r"deep\.json: not a complete JSON file"):
        read_json(tmp_path / "deep.json")
