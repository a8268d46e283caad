# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import itertools

import numpy as np

from cmpf.visualization.palette import class_color, mix, oklch_to_rgb, shade


def test_a_class_keeps_its_color() -> None:
    first = [class_color(i) for i in range(100)]
    assert first == [class_color(i) for i in range(100)]
    assert class_color(0) == shade(0, 0)


def test_a_hundred_classes_have_colors_that_differ_visibly() -> None:
    colors = np.array([class_color(i) for i in range(100)], dtype=float)
    nearest = min(np.abs(a - b).max() for a, b in itertools.combinations(colors, 2))
    assert nearest >= 14  # of 255, in some channel


def test_many_classes_all_have_a_color() -> None:
    assert len({class_color(i) for i in range(500)}) == 500
    assert len(class_color(100_000)) == 3


def test_instances_of_a_class_have_different_shades() -> None:
    assert len({shade(3, number) for number in range(6)}) == 6
    assert shade(3, 6) == shade(3, 0)


def test_grays_are_those_of_oklab() -> None:
    assert oklch_to_rgb((1.0, 0.0, 0.0)) == (255, 255, 255)
    assert oklch_to_rgb((0.59987, 0.0, 0.0)) == (128, 128, 128)
    assert oklch_to_rgb((0.0, 0.0, 0.0)) == (0, 0, 0)


def test_a_color_outside_srgb_is_brought_inside_without_another_hue() -> None:
    r, g, b = oklch_to_rgb((0.6, 0.4, 142.0))
    assert g > r
    assert g > b


def test_mixing() -> None:
    assert mix((0, 100, 200), (100, 200, 0), 0.5) == (50, 150, 100)
    assert mix((0, 100, 200), (100, 200, 0), 0.0) == (0, 100, 200)
