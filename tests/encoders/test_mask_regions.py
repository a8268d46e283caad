# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Small islands and holes."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from cmpf.encoders.sam_proposals import remove_small_regions


def mask(*rows: str) -> NDArray[np.bool_]:
    return np.array([[character == "#" for character in row] for row in rows])


def plain_rule(given: NDArray[np.bool_], min_area: int) -> NDArray[np.bool_]:
    """segment-anything's rule, region by region on the full image."""
    result = given.copy()
    labels, count = ndimage.label(~result, structure=np.ones((3, 3)))
    for region in range(1, count + 1):
        if (labels == region).sum() < min_area:
            result[labels == region] = True
    labels, count = ndimage.label(result, structure=np.ones((3, 3)))
    areas = [(labels == region).sum() for region in range(1, count + 1)]
    kept = [index for index, area in enumerate(areas) if area >= min_area] or [int(np.argmax(areas))]
    return np.isin(labels, [index + 1 for index in kept])


def test_a_small_hole_is_filled_and_a_small_island_goes() -> None:
    given = mask(
        "........",
        ".####...",
        ".#.##..#",
        ".####...",
        "........",
    )
    expected = mask(
        "........",
        ".####...",
        ".####...",
        ".####...",
        "........",
    )
    assert (remove_small_regions(given, min_area=2) == expected).all()


def test_regions_of_just_the_least_area_stay() -> None:
    given = mask("##..####", "....#..#", "....####")  # an island and a hole of 2 pixels
    assert (remove_small_regions(given, min_area=2) == given).all()
    assert remove_small_regions(given, min_area=3).sum() == 12  # 3 x 4 filled, island gone


def test_regions_that_touch_at_a_corner_are_one() -> None:
    given = mask("##......", "##......", "..##....", "..##....")
    assert (remove_small_regions(given, min_area=8) == given).all()


def test_the_largest_of_small_islands_stays() -> None:
    given = mask("##......", "......#.", "......#.", "......#.")
    expected = mask("........", "......#.", "......#.", "......#.")
    assert (remove_small_regions(given, min_area=5) == expected).all()


def test_zero_area_empty_and_full_masks_are_left_alone() -> None:
    given = mask("#.#", "...")
    assert (remove_small_regions(given, min_area=0) == given).all()
    assert not remove_small_regions(np.zeros((3, 4), dtype=bool), min_area=5).any()
    assert remove_small_regions(np.ones((3, 4), dtype=bool), min_area=5).all()


def test_a_small_background_around_the_mask_is_filled_to_the_edge() -> None:
    given = np.zeros((4, 6), dtype=bool)
    given[1:3, 1:5] = True  # 24 - 8 = 16 pixels of background in one ring
    assert (remove_small_regions(given, min_area=16) == given).all()
    assert remove_small_regions(given, min_area=17).all()


@pytest.mark.parametrize("seed", range(40))
def test_random_masks_agree_with_the_rule_on_the_full_image(seed: int) -> None:
    generator = np.random.default_rng(seed)
    given = np.zeros((30, 26), dtype=bool)
    y0, x0 = generator.integers(0, 20, 2)
    height, width = generator.integers(1, 12, 2)
    part = generator.random((height, width)) < generator.uniform(0.2, 0.95)
    given[y0 : y0 + height, x0 : x0 + width] = part[: 30 - y0, : 26 - x0]
    if not given.any():
        given[y0, x0] = True
    before = given.copy()
    for min_area in (1, 3, 10, 300, 900):
        cleaned = remove_small_regions(given, min_area=min_area)
        assert (cleaned == plain_rule(given, min_area)).all()
    assert (given == before).all()
