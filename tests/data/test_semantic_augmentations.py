# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from cmpf.data.transforms.geometric import LabeledImage, Window
from cmpf.data.transforms.semantic import (
    CROP_TRIES,
    PadToMultiple,
    RandomCrop,
    RandomShortestEdge,
    crop,
    largest_class_share,
)
from cmpf.formats.label_map import NO_CLASS


def labeled(height: int, width: int, classes: np.ndarray | None = None) -> LabeledImage:
    """An image whose pixels are numbered in red and green, with a class map (all class 0 if none is given)."""
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([rows, columns, np.zeros_like(rows)], axis=-1).astype(np.uint8)
    labels = np.zeros((height, width), np.int32) if classes is None else classes.astype(np.int32)
    return LabeledImage(image=image, labels=labels, image_pad=128, label_pad=NO_CLASS)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def cut(kind: str, size: tuple[float, float], share: float = 1.0) -> RandomCrop:
    return RandomCrop(kind=kind, size=size, max_class_share=share)  # type: ignore[arg-type]


def test_the_short_side_is_one_of_the_set() -> None:
    generator = rng()
    resize = RandomShortestEdge(short_sides=(8, 12, 16), max_side=100, sampling="choice")
    sizes = Counter(resize(labeled(10, 20), generator).size for _ in range(300))
    assert set(sizes) == {(8, 16), (12, 24), (16, 32)}
    assert min(sizes.values()) > 60  # 100 expected, standard deviation 8


def test_the_short_side_is_between_two_lengths() -> None:
    generator = rng()
    resize = RandomShortestEdge(short_sides=(8, 11), max_side=100, sampling="range")
    assert {resize(labeled(10, 10), generator).size for _ in range(100)} == {(n, n) for n in (8, 9, 10, 11)}


def test_the_long_side_is_limited_and_labels_move_along() -> None:
    result = RandomShortestEdge(short_sides=(16,), max_side=20, sampling="choice")(labeled(10, 20), rng())
    assert result.size == (10, 20)
    assert result.labels is not None
    assert result.labels.shape == (10, 20)


@pytest.mark.parametrize(
    ("kind", "size", "heights", "widths"),
    [
        ("absolute", (4, 6), {4}, {6}),
        ("absolute", (50, 6), {10}, {6}),
        ("absolute_range", (3, 5), {3, 4, 5}, {3, 4, 5}),
        ("relative", (0.5, 0.25), {5}, {5}),
        # 0.8 .. 1 of 10 rows, 0.9 .. 1 of 20 columns, to the nearest
        ("relative_range", (0.8, 0.9), {8, 9, 10}, {18, 19, 20}),
    ],
)
def test_windows_have_the_size_of_their_kind(
    kind: str, size: tuple[float, float], heights: set[int], widths: set[int]
) -> None:
    generator = rng()
    sizes = [cut(kind, size)(labeled(10, 20), generator).size for _ in range(200)]
    assert {height for height, _ in sizes} == heights
    assert {width for _, width in sizes} == widths


def test_every_place_of_a_window_occurs_and_labels_move_along() -> None:
    classes = np.arange(12).reshape(3, 4)
    generator = rng()
    places = set()
    for _ in range(200):
        result = cut("absolute", (2, 2))(labeled(3, 4, classes), generator)
        top, left = (int(value) for value in result.image[0, 0, :2])
        places.add((top, left))
        assert result.labels is not None
        assert result.labels.tolist() == classes[top : top + 2, left : left + 2].tolist()
    assert places == {(top, left) for top in (0, 1) for left in (0, 1, 2)}


def test_the_largest_window_is_known_where_it_does_not_depend_on_the_image() -> None:
    assert cut("absolute", (4, 6)).largest_window == (4, 6)
    assert cut("absolute_range", (4, 6)).largest_window == (6, 6)
    assert cut("relative", (0.5, 0.5)).largest_window == (0, 0)


def test_no_class_fills_more_than_its_share_of_the_crop() -> None:
    # One column of class 1 in twenty of class 0: windows of four columns hold it or not, and then have 3/4 zeros.
    classes = np.zeros((4, 20))
    classes[:, 10] = 1
    generator = rng()
    shares = []
    for _ in range(100):
        result = cut("absolute", (4, 4), 0.75)(labeled(4, 20, classes), generator)
        shares.append(largest_class_share(result.labels, no_class=NO_CLASS))
    # 4 of the 17 windows will do; ten tries miss them all with probability (13/17)^10 = 0.068
    assert 0.75 in shares
    assert 1 <= shares.count(1.0) <= 18  # 6.8 expected, standard deviation 2.5
    assert set(shares) == {0.75, 1.0}


def test_after_ten_tries_the_last_window_is_taken() -> None:
    draws = rng(3)
    result = cut("absolute", (2, 2), 0.75)(labeled(9, 9), draws)
    repeated = rng(3)
    corners = [[int(repeated.integers(0, 7, endpoint=True)) for _ in range(2)] for _ in range(CROP_TRIES)]
    assert result.image[0, 0, :2].tolist() == corners[-1]
    assert draws.bit_generator.state == repeated.bit_generator.state


def test_any_window_will_do_with_a_share_of_one_or_without_labels() -> None:
    for share, labels in ((1.0, True), (0.75, False)):
        whole = labeled(9, 9)
        original = LabeledImage(
            image=whole.image, labels=whole.labels if labels else None, image_pad=0, label_pad=-1
        )
        draws, one = rng(3), rng(3)
        result = cut("absolute", (2, 2), share)(original, draws)
        one.integers(0, 7, endpoint=True), one.integers(0, 7, endpoint=True)
        assert draws.bit_generator.state == one.bit_generator.state
        assert (result.labels is None) != labels


def test_the_share_counts_pixels_that_have_a_class() -> None:
    classes = np.array([[0, 0, 0, 2], [-1, -1, -1, -1]])
    assert largest_class_share(classes, no_class=-1) == 0.75
    assert largest_class_share(np.full((2, 2), -1), no_class=-1) == 1.0
    assert largest_class_share(np.zeros((2, 2), np.int32), no_class=-1) == 1.0


def test_padding_reaches_the_next_multiple_and_the_least_size() -> None:
    result = PadToMultiple(divisor=4)(labeled(5, 8), rng())
    assert result.size == (8, 8)
    assert result.labels is not None
    assert (result.labels[5:] == NO_CLASS).all()
    assert (result.image[5:] == 128).all()
    assert PadToMultiple(divisor=4, at_least=(6, 13))(labeled(5, 8), rng()).size == (8, 16)


def test_whole_multiples_are_left_as_they_are() -> None:
    original = labeled(8, 8)
    assert PadToMultiple(divisor=4)(original, rng()) is original


def test_a_crop_of_a_stack_of_maps_cuts_each() -> None:
    base = labeled(4, 4)
    stack = np.arange(32).reshape(2, 4, 4)
    original = LabeledImage(image=base.image, labels=stack, image_pad=0, label_pad=0)
    result = crop(original, Window(top=1, left=2, height=2, width=1))
    assert result.labels is not None
    assert result.labels.tolist() == stack[:, 1:3, 2:3].tolist()
    assert result.image[..., :2].tolist() == [[[1, 2]], [[2, 2]]]
