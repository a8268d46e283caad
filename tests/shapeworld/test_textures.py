# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Surfaces: sizes, ranges, and that a pooled mean and deviation are enough to tell them apart."""

from __future__ import annotations

import numpy as np
import pytest

from cmpf.shapeworld.categories import COLORS, MATERIALS, PATTERNS, STUFF
from cmpf.shapeworld.textures import Patch, fractal_noise, mix, smooth_noise, stuff_texture, surface

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


def test_pooled_mean_and_deviation_tell_all_textures_apart():
    centers = np.array(
        [np.mean([_texture_statistics(name, seed) for seed in range(10)], axis=0) for name in NAMES]
    )
    for index, name in enumerate(NAMES):
        for seed in range(100, 105):
            distance = np.linalg.norm(centers - _texture_statistics(name, seed), axis=1)
            assert distance.argmin() == index, name


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


def test_pooled_mean_and_deviation_tell_all_materials_apart():
    centers = np.array(
        [np.mean([_surface_statistics(m, seed) for seed in range(10)], axis=0) for m in MATERIALS]
    )
    for index, material in enumerate(MATERIALS):
        for seed in range(100, 110):
            distance = np.linalg.norm(centers - _surface_statistics(material, seed), axis=1)
            assert distance.argmin() == index, material
