# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import itertools

import numpy as np

from cmpf.visualization.placement import LabelRequest, Placement, place_labels

CANVAS = (400, 600)


def rectangle(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros(CANVAS, dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def center(placement: Placement | None) -> tuple[float, float]:
    assert placement is not None
    x0, y0, x1, y1 = placement.rect
    return (x0 + x1) / 2, (y0 + y1) / 2


def test_a_label_sits_in_the_middle_of_its_region() -> None:
    (found,) = place_labels([LabelRequest(rectangle(100, 100, 500, 300), (80, 20))], CANVAS)
    x, y = center(found)
    assert abs(x - 300) < 8
    assert abs(y - 200) < 8
    assert found is not None
    assert found.leader is None


def test_the_visual_center_of_a_hook_is_in_its_thick_part() -> None:
    hook = rectangle(50, 50, 70, 350) | rectangle(50, 230, 350, 350)
    x, y = center(place_labels([LabelRequest(hook, (60, 20))], CANVAS)[0])
    assert 230 < y < 350
    assert hook[int(y), int(x)]


def test_a_small_region_is_labeled_beside_with_a_leader() -> None:
    background = np.ones(CANVAS, dtype=bool)
    small = rectangle(290, 190, 320, 215)
    background &= ~small
    _, found = place_labels([LabelRequest(background, (50, 20)), LabelRequest(small, (90, 20))], CANVAS)
    assert found is not None
    assert found.leader is not None
    x, y = found.leader
    assert small[int(y), int(x)]
    x0, y0, x1, y1 = (round(v) for v in found.rect)
    assert not small[y0:y1, x0:x1].any()


def test_a_tiny_region_gets_no_label() -> None:
    assert place_labels([LabelRequest(rectangle(10, 10, 12, 13), (90, 20))], CANVAS) == [None]


def test_labels_stay_inside_and_apart_however_crowded() -> None:
    generator = np.random.default_rng(0)
    requests = []
    for _ in range(60):
        x, y = int(generator.integers(0, 520)), int(generator.integers(0, 340))
        requests.append(LabelRequest(rectangle(x, y, x + 80, y + 60), (generator.uniform(40, 120), 22)))
    rects = [p.rect for p in place_labels(requests, CANVAS) if p is not None]
    assert len(rects) > 15
    for x0, y0, x1, y1 in rects:
        assert x0 >= 0
        assert y0 >= 0
        assert x1 <= 600
        assert y1 <= 400
    for a, b in itertools.combinations(rects, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_a_label_wider_than_the_image_is_left_out() -> None:
    everything = np.ones((50, 60), dtype=bool)
    assert place_labels([LabelRequest(everything, (90, 20))], (50, 60)) == [None]


def test_empty_regions_and_no_regions_are_fine() -> None:
    assert place_labels([], CANVAS) == []
    assert place_labels([LabelRequest(np.zeros(CANVAS, dtype=bool), (50, 20))], CANVAS) == [None]
