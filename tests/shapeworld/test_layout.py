# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Where things lie in a scene, and how they are painted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cmpf.shapeworld.categories import COLORS, MATERIALS, PATTERNS, SHAPES, STUFF, THINGS
from cmpf.shapeworld.layout import NORMAL, Canvas, Crowding, PlacedThing, coverage, place_thing, stuff_regions
from cmpf.shapeworld.textures import Patch, fractal_noise, mix, smooth_noise, stuff_texture, surface


@pytest.mark.parametrize(
    ("shape", "area"),
    [
        # A regular 40-gon of radius 0.9: 20 * 0.81 * sin(9 deg) = 2.534
        ("circle", 2.534),
        # 2.2 x 0.84 = 1.848
        ("bar", 1.848),
        # 40-gon of radius 1 minus 32-gon of radius 0.56: 20 sin(9 deg) - 16 * 0.3136 * sin(11.25 deg) = 2.150
        ("ring", 2.150),
        # Base 2.1, height 1.8: 2.1 * 1.8 / 2 = 1.890
        ("triangle", 1.890),
        # Ten triangles between radii 1.2 and 0.5: 5 * 1.2 * 0.5 * sin(36 deg) = 1.763
        ("star", 1.763),
    ],
)
def test_the_area_is_that_of_the_outline(shape, area):
    assert coverage(shape, radius=40, angle=0.3).sum() / 40**2 == pytest.approx(area, rel=0.02)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_window_is_odd_and_has_an_empty_margin(shape):
    alpha = coverage(shape, radius=20, angle=-0.5)
    assert alpha.shape[0] == alpha.shape[1]
    assert alpha.shape[0] % 2 == 1
    assert alpha.min() == 0
    assert alpha.max() == 1
    edge = np.concatenate([alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]])
    assert edge.max() < 0.5


def test_the_hole_of_a_ring_is_not_covered():
    alpha = coverage("ring", radius=24, angle=0.0)
    middle = alpha.shape[0] // 2
    assert alpha[middle, middle] == 0
    assert alpha[middle, middle + round(0.78 * 24)] == 1


def test_a_positive_angle_turns_clockwise_on_the_screen():
    alpha = coverage("bar", radius=30, angle=np.pi / 6)
    middle = alpha.shape[0] // 2
    # 25 px along the bar, turned by 30 degrees: x = 25 cos 30 = 21.7 right, y = 25 sin 30 = 12.5 down.
    assert alpha[middle + 12, middle + 22] == 1
    assert alpha[middle - 12, middle + 22] == 0


def test_outlines_differ_from_one_another():
    def mask(shape):
        alpha = coverage(shape, radius=24, angle=0.0)
        canvas = np.zeros((81, 81), bool)
        low = 40 - alpha.shape[0] // 2
        canvas[low : low + alpha.shape[0], low : low + alpha.shape[0]] = alpha >= 0.5
        return canvas

    masks = [mask(shape) for shape in SHAPES]
    for i, one in enumerate(masks):
        for other in masks[:i]:
            assert (one & other).sum() / (one | other).sum() < 0.7


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


NAMES = [category.name for category in STUFF]


def _texture_statistics(name: str, seed: int) -> np.ndarray:
    texture = stuff_texture(name, np.random.default_rng(seed), Patch((48, 48), 1.0))
    pixels = texture.reshape(3, -1)
    return np.concatenate([pixels.mean(1), pixels.std(1)])


@pytest.mark.parametrize("name", NAMES)
def test_a_texture_fills_any_rectangle_with_colors(name):
    for shape, unit in (((30, 70), 1.0), ((1, 128), 1.0), ((90, 5), 2.0)):
        texture = stuff_texture(name, np.random.default_rng(0), Patch(shape, unit))
        assert texture.shape == (3, *shape)
        assert texture.dtype == np.float32
        assert texture.min() > -40
        assert texture.max() < 320


@pytest.mark.parametrize("name", NAMES)
def test_a_texture_is_the_same_for_a_seed_and_another_for_another(name):
    one, same, other = (_texture_statistics(name, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_mix_interpolates_and_clips():
    colors = mix((0, 100, 200), (100, 100, 0), np.array([[-1.0, 0.25, 2.0]], np.float32))
    # A quarter of the way: (25, 100, 150).
    np.testing.assert_allclose(colors[:, 0].T, [(0, 100, 200), (25, 100, 150), (100, 100, 0)])


def test_noise_keeps_its_grain_when_the_patch_grows_with_the_unit():
    rng = np.random.default_rng(0)
    small = smooth_noise(rng, Patch((128, 128), 1.0), 8, 8)
    large = smooth_noise(rng, Patch((256, 256), 2.0), 8, 8)
    # Twice the pixels for the same waves: half the step from pixel to pixel.
    ratio = np.abs(np.diff(small)).mean() / np.abs(np.diff(large)).mean()
    assert 1.4 < ratio < 2.8


def test_fractal_noise_adds_finer_detail_with_each_octave():
    patch = Patch((128, 128), 1.0)
    coarse, fine = (
        np.abs(np.diff(fractal_noise(np.random.default_rng(1), patch, 4, octaves))).mean()
        for octaves in (1, 3)
    )
    assert fine > 1.5 * coarse


def _surface_statistics(material: str, seed: int) -> np.ndarray:
    pixels = surface(material, np.random.default_rng(seed), side=41, unit=1.0).reshape(3, -1)
    return np.concatenate([pixels.mean(1), pixels.std(1)])


@pytest.mark.parametrize("material", COLORS)
def test_a_plain_color_is_the_same_everywhere(material):
    colors = surface(material, np.random.default_rng(0), side=9, unit=1.0)
    assert colors.shape == (3, 9, 9)
    assert np.ptp(colors.reshape(3, -1), axis=1).max() == 0


@pytest.mark.parametrize("material", PATTERNS)
def test_a_pattern_alternates_between_two_colors(material):
    colors = surface(material, np.random.default_rng(0), side=61, unit=1.0).reshape(3, -1)
    assert colors.std(axis=1).max() > 50


@pytest.mark.parametrize("material", PATTERNS)
def test_a_pattern_grows_with_the_unit(material):
    changes = []
    for unit in (1.0, 2.0):
        colors = surface(material, np.random.default_rng(0), side=120, unit=unit)
        changes.append(np.abs(np.diff(colors[2])).mean())
    assert 1.6 < changes[0] / changes[1] < 2.5


@pytest.mark.parametrize(
    ("statistics", "names"),
    [(_texture_statistics, NAMES), (_surface_statistics, MATERIALS)],
    ids=["stuff", "things"],
)
def test_pooled_mean_and_deviation_tell_all_apart(statistics, names):
    centers = np.array([np.mean([statistics(name, seed) for seed in range(10)], axis=0) for name in names])
    for index, name in enumerate(names):
        for seed in range(100, 110):
            distance = np.linalg.norm(centers - statistics(name, seed), axis=1)
            assert distance.argmin() == index, name
