# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from cmpf.common.regions import remove_islands, remove_small_regions


def cleaned(given: NDArray[np.bool_], *, min_area: float) -> NDArray[np.bool_]:
    """One mask between two others, which must not touch it."""
    three = np.stack([np.ones_like(given), given, ~given])
    return remove_small_regions(three, min_area=min_area)[1]


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
    assert (cleaned(given, min_area=2) == expected).all()


def test_regions_of_just_the_least_area_stay() -> None:
    given = mask("##..####", "....#..#", "....####")  # an island and a hole of 2 pixels
    assert (cleaned(given, min_area=2) == given).all()
    assert cleaned(given, min_area=3).sum() == 12  # 3 x 4 filled, island gone


def test_regions_that_touch_at_a_corner_are_one() -> None:
    given = mask("##......", "##......", "..##....", "..##....")
    assert (cleaned(given, min_area=8) == given).all()


def test_the_largest_of_small_islands_stays() -> None:
    given = mask("##......", "......#.", "......#.", "......#.")
    expected = mask("........", "......#.", "......#.", "......#.")
    assert (cleaned(given, min_area=5) == expected).all()


def test_zero_area_empty_and_full_masks_are_left_alone() -> None:
    given = mask("#.#", "...")
    assert (cleaned(given, min_area=0) == given).all()
    assert not cleaned(np.zeros((3, 4), dtype=bool), min_area=5).any()
    assert cleaned(np.ones((3, 4), dtype=bool), min_area=5).all()


def test_a_small_background_around_the_mask_is_filled_to_the_edge() -> None:
    given = np.zeros((4, 6), dtype=bool)
    given[1:3, 1:5] = True  # 24 - 8 = 16 pixels of background in one ring
    assert (cleaned(given, min_area=16) == given).all()
    assert cleaned(given, min_area=17).all()


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
        assert (cleaned(given, min_area=min_area) == plain_rule(given, min_area)).all()
    assert (given == before).all()


def test_islands_below_a_share_of_the_largest_one_go() -> None:
    given = mask("####....", "####..#.", "......#.", "#.......")  # 8, 2 and 1 cells
    no_island_of_one = mask("####....", "####..#.", "......#.", "........")
    largest = mask("####....", "####....", "........", "........")
    masks = np.stack([given, np.zeros_like(given), largest])
    assert (remove_islands(masks, min_share=0.125) == masks).all()  # 1 of 8 is not below an eighth
    assert (remove_islands(masks, min_share=0.2)[0] == no_island_of_one).all()
    assert (remove_islands(masks, min_share=0.26)[0] == largest).all()
    assert (remove_islands(masks, min_share=1.0)[2] == largest).all()
    assert not remove_islands(masks, min_share=1.0)[1].any()


def test_no_masks_have_no_regions() -> None:
    nothing = np.zeros((0, 4, 5), dtype=bool)
    assert remove_islands(nothing, min_share=0.1).shape == (0, 4, 5)
    assert remove_small_regions(nothing, min_area=3).shape == (0, 4, 5)
