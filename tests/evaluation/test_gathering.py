# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from cmpf.evaluation.gathering import gather_by_image


def test_alone_the_statistics_come_back_sorted_numbers_before_words() -> None:
    assert list(gather_by_image({"b": 1, 10: 2, "a": 3, 9: 4}).items()) == [
        (9, 4),
        (10, 2),
        ("a", 3),
        ("b", 1),
    ]


def test_nothing_gathers_to_nothing() -> None:
    assert gather_by_image({}) == {}
