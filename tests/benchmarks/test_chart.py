# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Charts of costs."""

from __future__ import annotations

import pytest
from PIL import Image

from benchmarks.chart import draw_panels, exponent


def test_the_exponent_is_the_slope_in_logarithms():
    assert exponent([(1, 3), (2, 12), (4, 48)]) == pytest.approx(2)  # 3 x squared
    assert exponent([(1, 5), (10, 5)]) == pytest.approx(0)


def test_panels_stand_in_rows_and_hold_their_lines(tmp_path):
    line = [(1.0, 0.001), (10.0, 0.1), (100.0, 2.0)]
    draw_panels(
        tmp_path / "a.png",
        {"one": {"ours": line}, "two": {"ours": line, "theirs": line[:2]}, "three": {"x": line}},
    )
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (920, 680)
        quarters = [image.crop((x, y, x + 460, y + 340)) for y in (0, 340) for x in (0, 460)]
    colors = [len(quarter.getcolors(maxcolors=10**6)) for quarter in quarters]
    assert min(colors[:3]) > 5
    assert colors[3] == 1  # the place of a fourth panel is empty
