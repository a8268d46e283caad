# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""From labels to pixels."""

from __future__ import annotations

import numpy as np

from cmpf.shapeworld.layout import PlacedThing
from cmpf.shapeworld.rendering import render
from cmpf.shapeworld.shapes import coverage

REGIONS = np.repeat(np.array([0, 1], np.int32), 32)[:, None].repeat(64, axis=1)


def _render(things, regions=REGIONS, seed=0):
    return render(
        np.random.default_rng(seed), regions=regions, stuff=["snow", "road"], things=things, unit=1.0
    )


def test_each_region_gets_its_texture():
    image = _render([])
    assert image.shape == (64, 64, 3)
    assert image.dtype == np.uint8
    assert image[:28].mean() > 180
    assert image[36:].mean() < 130


def test_a_thing_shows_its_material_and_its_hole_what_lies_behind():
    alpha = coverage("ring", radius=20, angle=0.0)
    image = _render([PlacedThing(0, "red", alpha, 0, 0)]).astype(int)
    middle = alpha.shape[0] // 2
    band = image[middle, middle + 15]
    assert band[0] > band[1] + 80
    hole = image[middle, middle]
    assert np.ptp(hole) < 40


def test_a_later_thing_lies_on_an_earlier_one():
    alpha = np.ones((21, 21), np.float32)
    below, above = PlacedThing(0, "yellow", alpha, 10, 10), PlacedThing(0, "blue", alpha, 10, 10)
    red, _, blue = _render([below, above])[20, 20].astype(int)
    assert blue > red + 80


def test_a_thing_casts_a_shadow_below():
    regions = np.zeros((64, 64), np.int32)
    regions[63] = 1
    alpha = np.ones((21, 21), np.float32)
    image = _render([PlacedThing(0, "red", alpha, 10, 20)], regions).astype(float)
    # The light comes from above, so the strip under the thing is darker than the open snow.
    assert image[32:34, 24:38].mean() < image[50:55, 24:38].mean() - 15


def test_a_thing_across_the_border_is_cut():
    image = _render([PlacedThing(0, "red", np.ones((21, 21), np.float32), -10, 54)])
    assert image.shape == (64, 64, 3)
    assert image[2, 62, 0] > image[2, 62, 1] + 80
