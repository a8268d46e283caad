# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Surfaces of the things."""

from __future__ import annotations

import numpy as np
import pytest

from cmpf.shapeworld.categories import COLORS, MATERIALS, PATTERNS
from cmpf.shapeworld.materials import surface


def _statistics(material: str, seed: int) -> np.ndarray:
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
    centers = np.array([np.mean([_statistics(m, seed) for seed in range(10)], axis=0) for m in MATERIALS])
    for index, material in enumerate(MATERIALS):
        for seed in range(100, 110):
            distance = np.linalg.norm(centers - _statistics(material, seed), axis=1)
            assert distance.argmin() == index, material
