# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from cmpf.visualization import training_curve
from cmpf.visualization.chart import _running_mean, _ticks

ROWS = [
    {"iteration": i, "loss_ce": 3 - i / 100, "loss_mask": 1.5, "loss_dice": 2.0, "lr": 1e-4}
    for i in range(0, 200, 10)
]


def texts(svg: str) -> list[str]:
    return [
        element.text or "" for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")
    ]


def test_the_curve_is_well_formed_and_names_each_loss_with_its_last_value() -> None:
    svg = training_curve(ROWS)
    words = texts(svg)
    assert "loss_mask 1.5" in words
    assert "loss_dice 2" in words
    assert any(word.startswith("loss_ce 1.1") for word in words)
    assert "iteration" in words
    assert svg.count("fill='none'") == 6  # pale and bold line of three losses
    assert "lr" not in svg


def test_only_losses_that_exist_are_drawn() -> None:
    svg = training_curve(
        [{"iteration": 0, "total_loss": 5.0}, {"iteration": 9, "total_loss": 4}], keys=("total_loss", "x")
    )
    assert svg.count("fill='none'") == 2
    assert "total_loss 4" in texts(svg)


@pytest.mark.parametrize("rows", [[], [{"lr": 1.0}], [{"iteration": 3, "loss_ce": math.nan}]])
def test_without_losses_the_image_says_so(rows: list) -> None:
    assert texts(training_curve(rows)) == ["no losses yet"]


def test_one_row_equal_values_and_rows_out_of_order_are_fine() -> None:
    assert "<circle" in training_curve(ROWS[:1])
    ElementTree.fromstring(
        training_curve([{"iteration": 5, "loss_ce": 0.0}, {"iteration": 2, "loss_ce": 0.0}])
    )
    assert training_curve(ROWS[::-1]) == training_curve(ROWS)


def test_everything_stays_inside_the_size_asked_for() -> None:
    svg = training_curve([{"iteration": 0, "loss_ce": 1e6}, *ROWS[1:]], size=(300, 500))
    assert "viewBox='0 0 500 300'" in svg
    for path in re.findall(r"<path d='M([^']*)' fill='none'", svg):
        points = [tuple(map(float, point.split())) for point in path.split("L")]
        assert all(0 <= x <= 500 and 0 <= y <= 300 for x, y in points)


def test_a_long_training_does_not_make_a_huge_image() -> None:
    rows = [{"iteration": i, "loss_ce": 1.0} for i in range(100_000)]
    assert len(training_curve(rows)) < 60_000


def test_names_are_escaped() -> None:
    svg = training_curve([{"iteration": 0, "<b>": 1.0}], keys=("<b>",))
    assert "&lt;b&gt;" in svg
    ElementTree.fromstring(svg)


def test_ticks_are_round_numbers_around_the_range() -> None:
    assert _ticks(0.0, 4.2, 5) == [0, 1, 2, 3, 4, 5]
    assert _ticks(0.0, 0.07, 5) == [0, 0.02, 0.04, 0.06, 0.08]
    assert _ticks(0.0, 990.0, 6) == [0, 200, 400, 600, 800, 1000]


def test_a_running_mean_is_taken_over_four_percent_of_the_values() -> None:
    # Of 50 values the window is one to each side of a value: the peak counts a third, at the end a half.
    assert _running_mean([0.0] * 48 + [6.0, 0.0]) == [0.0] * 47 + [2.0, 2.0, 3.0]
    assert _running_mean([5.0, 1.0]) == [5.0, 1.0]  # of so few, none
