# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Outlines give the mask again, by pycocotools: exactly, or within their tolerance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask

from cmpf.formats.polygons import mask_polygons, one_polygon


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
    mask[1:11, 1:11], mask[3:6, 4:8], mask[2:5, 14:18] = True, False, True
    polygons = mask_polygons(mask, tolerance=0)
    assert len(polygons) == 2
    assert np.array_equal(filled(polygons, 12, 20), mask)
    assert np.array_equal(filled([one_polygon(polygons)], 12, 20), mask)


@settings(deadline=None, max_examples=60)
@given(
    hnp.arrays(
        np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12), elements=st.booleans()
    )
)
def test_without_tolerance_any_mask_comes_back(mask: np.ndarray) -> None:
    assert np.array_equal(filled(mask_polygons(mask, tolerance=0), *mask.shape), mask)


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
