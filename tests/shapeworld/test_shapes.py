# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Coverage of the pixel grid by each outline."""

from __future__ import annotations

import numpy as np
import pytest

from cmpf.shapeworld.categories import SHAPES
from cmpf.shapeworld.shapes import coverage


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
