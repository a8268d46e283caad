# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Regions of stuff, and the rules by which things may hide one another."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cmpf.shapeworld.categories import THINGS
from cmpf.shapeworld.layout import NORMAL, Canvas, Crowding, PlacedThing, place_thing, stuff_regions

FREE = Crowding(things=(1, 1), radius=(5, 6), visible=0.5, stuff_area=0)


def _square(side: int, top: int, left: int, material: str = "red") -> PlacedThing:
    return PlacedThing(0, material, np.ones((side, side), np.float32), top, left)


def _canvas(crowding: Crowding = FREE) -> Canvas:
    return Canvas(np.zeros((40, 40), np.int32), stuff=1, crowding=crowding, unit=1.0)


@pytest.mark.parametrize("count", [2, 3])
def test_every_region_is_there_and_large(count):
    for seed in range(40):
        regions = stuff_regions(np.random.default_rng(seed), size=96, count=count)
        areas = np.bincount(regions.ravel(), minlength=count)
        assert len(areas) == count
        assert areas.min() > 0.08 * 96 * 96


def test_the_first_region_is_the_uppermost():
    regions = stuff_regions(np.random.default_rng(5), size=64, count=3)
    assert (regions[0] == 0).all()
    assert (regions[-1] != 0).all()


def test_a_window_is_cut_at_the_border_of_the_image():
    inside, own = _square(10, -4, 35).windows(40)
    assert inside == (slice(0, 6), slice(35, 40))
    assert own == (slice(4, 10), slice(0, 5))


def test_a_thing_takes_the_next_label():
    canvas = _canvas()
    assert canvas.add(_square(10, 0, 0))
    assert canvas.add(_square(10, 20, 20, "blue"))
    assert np.bincount(canvas.ids.ravel()).tolist() == [0, 1600 - 200, 100, 100]


def test_a_thing_may_hide_as_much_of_another_as_the_crowding_allows_and_no_more():
    canvas = _canvas()
    assert canvas.add(_square(10, 10, 10))
    # 6 of 10 columns would be hidden: 40 % stay in view, 50 % are asked for.
    assert not canvas.add(_square(10, 10, 6, "blue"))
    assert np.count_nonzero(canvas.ids == 2) == 100
    assert canvas.add(_square(10, 10, 5, "blue"))
    assert np.count_nonzero(canvas.ids == 2) == 50


def test_a_thing_that_lies_mostly_outside_is_refused():
    assert not _canvas().add(_square(10, -6, 0))
    assert _canvas().add(_square(10, -5, 0))


def test_a_thing_may_not_cover_one_of_its_own_material():
    canvas = _canvas()
    assert canvas.add(_square(10, 10, 10))
    assert not canvas.add(_square(10, 10, 19))
    assert canvas.add(_square(10, 10, 20))


def test_a_left_over_of_less_than_30_pixels_is_refused():
    canvas = _canvas(replace(FREE, visible=0.1))
    assert not canvas.add(_square(5, 0, 0))
    assert canvas.add(_square(10, 10, 10))
    # 2 of 10 columns would stay in view: 20 pixels.
    assert not canvas.add(_square(10, 10, 8, "blue"))


def test_stuff_keeps_its_area():
    canvas = _canvas(replace(FREE, stuff_area=1200))
    assert canvas.add(_square(20, 0, 0))
    assert not canvas.add(_square(10, 25, 25, "blue"))


def test_place_thing_gives_up_on_a_full_image():
    canvas = _canvas(replace(FREE, stuff_area=1600))
    assert not place_thing(canvas, np.random.default_rng(0), category=THINGS[0], crowding=FREE, unit=1.0)
    assert canvas.things == []


def test_place_thing_keeps_the_radius_in_its_range():
    canvas = Canvas(np.zeros((128, 128), np.int32), stuff=1, crowding=NORMAL, unit=1.0)
    circle = next(category for category in THINGS if category.shape == "circle")
    assert place_thing(canvas, np.random.default_rng(0), category=circle, crowding=NORMAL, unit=1.0)
    radius = np.sqrt(canvas.things[0].alpha.sum() / (np.pi * 0.9**2))
    assert NORMAL.radius[0] * 0.97 <= radius <= NORMAL.radius[1] * 1.03
