# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import colorsys
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from cmpf.data.transforms.color import (
    SSDColorJitter,
    rotate_hue,
    scale_contrast,
    scale_saturation,
    shift_brightness,
)
from cmpf.data.transforms.geometric import (
    CROP_TRIES,
    Augmentation,
    LabeledImage,
    LargeScaleJitter,
    PadToMultiple,
    RandomCrop,
    RandomHorizontalFlip,
    RandomShortestEdge,
    Resize,
    ResizeShortestEdge,
    Window,
    crop,
    largest_class_share,
    pad,
    resize,
)
from cmpf.formats.label_map import NO_CLASS


def labeled(height: int, width: int, *, seed: int = 0, labels: bool = True) -> LabeledImage:
    generator = np.random.default_rng(seed)
    return LabeledImage(
        image=generator.integers(0, 256, (height, width, 3), dtype=np.uint8),
        labels=generator.integers(1, 2**24, (height, width)).astype(np.int32) if labels else None,
        image_pad=128,
        label_pad=0,
    )


def marked(height: int, width: int) -> LabeledImage:
    """An image whose labels repeat its red channel, so that both must move alike (flat color areas)."""
    blocks = np.arange(1, height * width // 64 + 1, dtype=np.uint8).reshape(height // 8, width // 8)
    red = np.kron(blocks, np.ones((8, 8), np.uint8))
    return LabeledImage(
        image=np.stack([red] * 3, axis=-1), labels=red.astype(np.int32), image_pad=0, label_pad=0
    )


def test_flipping_mirrors_image_and_labels_with_the_given_probability() -> None:
    original = labeled(3, 4)
    rng = np.random.default_rng(0)
    flip = RandomHorizontalFlip(probability=0.5)
    flips = 0
    for _ in range(400):
        result = flip(original, rng)
        mirrored = not np.array_equal(result.image, original.image)
        flips += mirrored
        step = -1 if mirrored else 1
        assert np.array_equal(result.image, original.image[:, ::step])
        assert np.array_equal(result.labels, original.labels[:, ::step])
    assert 160 <= flips <= 240  # 200 expected, standard deviation 10


def test_a_flip_of_probability_zero_or_one_is_certain() -> None:
    original, rng = labeled(2, 3), np.random.default_rng(0)
    assert all(RandomHorizontalFlip(probability=0.0)(original, rng) is original for _ in range(20))
    assert not any(RandomHorizontalFlip(probability=1.0)(original, rng) is original for _ in range(20))


def test_a_fixed_resize_gives_its_size_to_both() -> None:
    result = Resize(size=(8, 6))(labeled(4, 12), np.random.default_rng(0))
    assert result.image.shape == (8, 6, 3)
    assert result.labels is not None
    assert result.labels.shape == (8, 6)


@pytest.mark.parametrize("shared", [True, False])
def test_a_shared_offset_moves_the_crop_along_the_diagonal(shared: bool) -> None:
    # 1.5 * 32 / 48 = 1: the image keeps its size, and 16 rows and columns are free. Labels tell where the crop began.
    rows, columns = np.mgrid[:48, :48]
    image = LabeledImage(np.zeros((48, 48, 3), np.uint8), rows * 48 + columns, image_pad=0, label_pad=-1)
    jitter = LargeScaleJitter(size=32, min_scale=1.5, max_scale=1.5, shared_offset=shared)
    rng = np.random.default_rng(0)
    found = []
    for _ in range(60):
        labels = jitter(image, rng).labels
        assert labels is not None
        assert labels.shape == (32, 32)
        found.append(divmod(int(labels[0, 0]), 48))
    assert all(0 <= top <= 16 and 0 <= left <= 16 for top, left in found)
    assert (len({top - left for top, left in found}) == 1) == shared
    assert len({top for top, _ in found}) > 8


def test_a_shared_offset_takes_the_same_share_of_each_side() -> None:
    rows, columns = np.mgrid[:32, :64]
    image = LabeledImage(np.zeros((32, 64, 3), np.uint8), rows * 64 + columns, image_pad=0, label_pad=-1)
    jitter = LargeScaleJitter(size=16, min_scale=4.0, max_scale=4.0, shared_offset=True)
    rng, expected = np.random.default_rng(3), np.random.default_rng(3)
    for _ in range(20):
        labels = jitter(image, rng).labels
        assert labels is not None
        expected.uniform()  # the scale
        share = expected.uniform()
        # 4 * 16 / 64 = 1: the image keeps its size; 32 - 16 = 16 rows and 64 - 16 = 48 columns are free.
        assert divmod(int(labels[0, 0]), 64) == (round(16 * share), round(48 * share))


def test_the_test_resize_follows_the_shortest_edge_rule() -> None:
    rng = np.random.default_rng(0)
    augmentation = ResizeShortestEdge(short_side=10, max_side=25)
    assert augmentation(labeled(5, 8, labels=False), rng).size == (10, 16)
    assert augmentation(labeled(5, 50, labels=False), rng).size == (3, 25)  # 25 / 50 * 5 = 2.5, rounded up


def test_resizing_to_the_own_size_changes_nothing() -> None:
    original = labeled(5, 7)
    assert resize(original, (5, 7)) is original


@pytest.mark.parametrize(
    ("old", "new"), [((4, 4), (8, 8)), ((9, 7), (4, 5)), ((3, 5), (7, 5)), ((1, 1), (3, 2))]
)
def test_labels_take_the_pixel_in_which_the_center_lies(old: tuple[int, int], new: tuple[int, int]) -> None:
    original = labeled(*old)
    result = resize(original, new)
    assert original.labels is not None
    assert result.labels is not None
    expected = np.zeros(new, np.int32)
    for y in range(new[0]):
        for x in range(new[1]):
            source = int((y + 0.5) * old[0] / new[0]), int((x + 0.5) * old[1] / new[1])
            expected[y, x] = original.labels[source]
    assert np.array_equal(result.labels, expected)


def test_a_stack_of_label_maps_moves_as_one() -> None:
    original = labeled(6, 8)
    stack = LabeledImage(original.image, np.stack([original.labels, original.labels + 1]), 128, 0)
    single = pad(resize(original, (9, 5)), (12, 12))
    double = pad(resize(stack, (9, 5)), (12, 12))
    assert double.labels is not None
    assert np.array_equal(double.labels[0], single.labels)
    assert np.array_equal(double.labels[1][:9, :5], double.labels[0][:9, :5] + 1)


@pytest.mark.parametrize("size", [(40, 50), (7, 9), (23, 61)])
def test_resizing_a_window_equals_cropping_the_resized_whole(size: tuple[int, int]) -> None:
    original = labeled(20, 30)
    whole = resize(original, size)
    assert whole.labels is not None
    generator = np.random.default_rng(1)
    for _ in range(10):
        h, w = (int(generator.integers(1, side + 1)) for side in size)
        top, left = int(generator.integers(0, size[0] - h + 1)), int(generator.integers(0, size[1] - w + 1))
        part = resize(original, size, Window(top, left, h, w))
        cut = slice(top, top + h), slice(left, left + w)
        assert np.array_equal(part.labels, whole.labels[cut])
        # Pillow's weights are rounded to fixed point, which may turn over one gray value.
        assert np.abs(part.image.astype(int) - whole.image[cut]).max() <= 1


def test_padding_goes_right_and_down_with_its_own_value_for_each() -> None:
    result = pad(labeled(2, 3), (4, 5))
    assert result.labels is not None
    assert result.image.shape == (4, 5, 3)
    assert (result.image[2:] == 128).all()
    assert (result.image[:, 3:] == 128).all()
    assert (result.labels[2:] == 0).all()
    assert (result.labels[:, 3:] == 0).all()
    assert np.array_equal(result.image[:2, :3], labeled(2, 3).image)


def test_jitter_always_gives_the_square_and_never_invents_labels() -> None:
    jitter = LargeScaleJitter(size=32, min_scale=0.1, max_scale=2.0)
    rng = np.random.default_rng(0)
    for shape in ((20, 30), (64, 64), (1, 1), (3, 200), (200, 3)):
        original = labeled(*shape)
        for _ in range(10):
            result = jitter(original, rng)
            assert result.image.shape == (32, 32, 3)
            assert result.labels is not None
            assert result.labels.shape == (32, 32)
            assert set(np.unique(result.labels)) <= {0, *np.unique(original.labels)}


def test_at_scale_one_the_longer_side_fits_and_the_rest_is_padding() -> None:
    result = LargeScaleJitter(size=60, min_scale=1.0, max_scale=1.0)(
        labeled(20, 30), np.random.default_rng(0)
    )
    # 60 / 30 = 2: 20 x 30 becomes 40 x 60, and 20 rows are padding.
    assert result.labels is not None
    assert (result.labels[:40] > 0).all()
    assert (result.labels[40:] == 0).all()
    assert (result.image[40:] == 128).all()


def test_small_scales_leave_the_image_in_the_corner() -> None:
    result = LargeScaleJitter(size=40, min_scale=0.25, max_scale=0.25)(
        labeled(30, 40), np.random.default_rng(0)
    )
    assert result.labels is not None
    assert (
        result.labels > 0
    ).sum() == 80  # a quarter of 40 x 40 fitting: 30 * 0.25 = 7.5 -> 8 rows, 10 columns
    assert (result.labels[:8, :10] > 0).all()


def test_large_scales_crop_everywhere_in_the_image() -> None:
    jitter = LargeScaleJitter(size=16, min_scale=2.0, max_scale=2.0)
    rng = np.random.default_rng(0)
    columns = np.tile(np.arange(1, 17, dtype=np.int32), (16, 1))
    original = LabeledImage(np.zeros((16, 16, 3), np.uint8), columns, 128, 0)
    starts = [int(jitter(original, rng).labels[0, 0]) for _ in range(400)]  # type: ignore[index]
    # The resized image has 32 columns, the crop starts at 0..16, that is in original column 1..9.
    assert set(starts) == set(range(1, 10))


def test_scales_are_uniform_between_the_limits() -> None:
    jitter = LargeScaleJitter(size=100, min_scale=0.2, max_scale=1.0)
    rng = np.random.default_rng(0)
    original = LabeledImage(np.zeros((10, 10, 3), np.uint8), np.ones((10, 10), np.int32), 128, 0)
    sides = [int((jitter(original, rng).labels[0] > 0).sum()) for _ in range(300)]  # type: ignore[index]
    assert min(sides) >= 20
    assert max(sides) <= 100
    assert np.mean(sides) == pytest.approx(60, abs=5)  # standard deviation 23 / sqrt(300) = 1.3


@pytest.mark.parametrize(
    "augmentation",
    [
        RandomHorizontalFlip(probability=1.0),
        Resize(size=(64, 64)),
        ResizeShortestEdge(short_side=64, max_side=100),
        LargeScaleJitter(size=64, min_scale=0.5, max_scale=2.0),
    ],
)
def test_image_and_labels_move_together(augmentation: Augmentation) -> None:
    rng = np.random.default_rng(3)
    for _ in range(10):
        result = augmentation(marked(32, 40), rng)
        # Away from the borders of the blocks, where the image is blended, both show the same value.
        difference = np.abs(result.image[..., 0].astype(int) - result.labels)
        assert np.median(difference) == 0
        assert (difference == 0).mean() > 0.5


@pytest.mark.parametrize("seed", [0, 1])
def test_equal_generators_give_equal_images(seed: int) -> None:
    jitter = LargeScaleJitter(size=24, min_scale=0.1, max_scale=2.0)
    first = jitter(labeled(20, 30), np.random.default_rng(seed))
    second = jitter(labeled(20, 30), np.random.default_rng(seed))
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.labels, second.labels)


def test_the_image_is_resized_as_pillow_does_it() -> None:
    original = labeled(20, 30)
    expected = Image.fromarray(original.image).resize((45, 13), Image.Resampling.BILINEAR)
    assert np.array_equal(resize(original, (13, 45)).image, np.asarray(expected))


def colors(count: int = 300) -> np.ndarray:
    """(1, N, 3) random colors, grays, black, white and colors with two equal channels."""
    generator = np.random.default_rng(0)
    odd = [
        [0, 0, 0],
        [255, 255, 255],
        [90, 90, 90],
        [200, 200, 10],
        [10, 200, 200],
        [200, 10, 200],
        [255, 0, 0],
    ]
    return np.concatenate([np.array(odd), generator.integers(0, 256, (count, 3))])[None].astype(np.float32)


def colored(image: np.ndarray) -> LabeledImage:
    return LabeledImage(
        image=image.astype(np.uint8), labels=np.zeros(image.shape[:2], np.int32), image_pad=0, label_pad=0
    )


@pytest.mark.parametrize("degrees", [-36.0, 0.0, 17.0, 120.0, 350.0])
def test_hue_turns_as_in_colorsys(degrees: float) -> None:
    image = colors()
    for before, after in zip(image[0], rotate_hue(image, degrees)[0], strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*(before / 255).tolist())
        expected = colorsys.hsv_to_rgb((hue + degrees / 360) % 1, saturation, value)
        assert after == pytest.approx(np.array(expected) * 255, abs=0.02)


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0, 1.5, 9.0])
def test_saturation_scales_as_in_colorsys(factor: float) -> None:
    image = colors()
    for before, after in zip(image[0], scale_saturation(image, factor)[0], strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*(before / 255).tolist())
        expected = colorsys.hsv_to_rgb(hue, min(1.0, saturation * factor), value)
        assert after == pytest.approx(np.array(expected) * 255, abs=0.02)


def test_brightness_and_contrast_stay_in_range() -> None:
    image = np.array([[[0, 100, 250]]], dtype=np.float32)
    assert shift_brightness(image, 20).tolist() == [[[20, 120, 255]]]
    assert shift_brightness(image, -20).tolist() == [[[0, 80, 230]]]
    assert scale_contrast(image, 1.5).tolist() == [[[0, 150, 255]]]
    assert scale_contrast(image, 0.5).tolist() == [[[0, 50, 125]]]


def test_each_distortion_alone_is_applied_in_half_of_the_cases() -> None:
    original = colored(np.full((1, 1, 3), (200, 100, 50)))
    still: dict[str, object] = {"brightness": 0.0, "contrast": (1, 1), "saturation": (1, 1), "hue": 0.0}
    for name, amount in {
        "brightness": 32.0,
        "contrast": (0.5, 0.6),
        "saturation": (0.5, 0.6),
        "hue": 36.0,
    }.items():
        rng = np.random.default_rng(0)
        jitter = SSDColorJitter(**{**still, name: amount})  # type: ignore[arg-type]
        changed = sum(not np.array_equal(jitter(original, rng).image, original.image) for _ in range(400))
        assert 155 <= changed <= 240, name  # 200 expected less the smallest amounts, standard deviation 10


def test_brightness_goes_down_as_often_as_up() -> None:
    rng = np.random.default_rng(0)
    jitter = SSDColorJitter(brightness=32, contrast=(1, 1), saturation=(1, 1), hue=0, probability=1.0)
    shifts = [int(jitter(colored(np.full((1, 1, 3), 100)), rng).image[0, 0, 0]) - 100 for _ in range(400)]
    assert -32 <= min(shifts) < -28
    assert 28 < max(shifts) <= 32
    assert abs(np.mean(shifts)) < 4  # four standard deviations of the mean, 64 / sqrt(12 * 400)


def test_contrast_comes_before_or_after_the_colors() -> None:
    # Contrast 2 clips red at 255; saturation 0.5 halves the distances to the largest channel.
    # First contrast: (255, 100, 100) -> (255, 177.5, 177.5) -> 178 (rounded to even).
    # Last: (200, 125, 125) -> (255, 250, 250).
    jitter = SSDColorJitter(brightness=0, contrast=(2, 2), saturation=(0.5, 0.5), hue=0, probability=1.0)
    rng = np.random.default_rng(0)
    original = colored(np.full((1, 1, 3), (200, 50, 50)))
    results = {tuple(jitter(original, rng).image[0, 0].tolist()) for _ in range(20)}
    assert results == {(255, 178, 178), (255, 250, 250)}


def test_the_published_amounts_are_the_defaults_and_labels_stay() -> None:
    jitter = SSDColorJitter()
    assert (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue, jitter.probability) == (
        32.0,
        (0.5, 1.5),
        (0.5, 1.5),
        36.0,
        0.5,
    )
    original = colored(colors())
    for seed in range(20):
        result = jitter(original, np.random.default_rng(seed))
        assert result.labels is original.labels
        assert result.image.dtype == np.uint8
    assert jitter(original, np.random.default_rng(7)).image.tolist() == (
        jitter(original, np.random.default_rng(7)).image.tolist()
    )


def test_probability_zero_changes_nothing() -> None:
    original = colored(colors())
    result = SSDColorJitter(probability=0.0)(original, np.random.default_rng(0))
    assert np.array_equal(result.image, original.image)


def numbered(height: int, width: int, classes: np.ndarray | None = None) -> LabeledImage:
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
    sizes = Counter(resize(numbered(10, 20), generator).size for _ in range(300))
    assert set(sizes) == {(8, 16), (12, 24), (16, 32)}
    assert min(sizes.values()) > 60  # 100 expected, standard deviation 8


def test_the_short_side_is_between_two_lengths() -> None:
    generator = rng()
    resize = RandomShortestEdge(short_sides=(8, 11), max_side=100, sampling="range")
    assert {resize(numbered(10, 10), generator).size for _ in range(100)} == {(n, n) for n in (8, 9, 10, 11)}


def test_the_long_side_is_limited_and_labels_move_along() -> None:
    result = RandomShortestEdge(short_sides=(16,), max_side=20, sampling="choice")(numbered(10, 20), rng())
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
    sizes = [cut(kind, size)(numbered(10, 20), generator).size for _ in range(200)]
    assert {height for height, _ in sizes} == heights
    assert {width for _, width in sizes} == widths


def test_every_place_of_a_window_occurs_and_labels_move_along() -> None:
    classes = np.arange(12).reshape(3, 4)
    generator = rng()
    places = set()
    for _ in range(200):
        result = cut("absolute", (2, 2))(numbered(3, 4, classes), generator)
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
        result = cut("absolute", (4, 4), 0.75)(numbered(4, 20, classes), generator)
        shares.append(largest_class_share(result.labels, no_class=NO_CLASS))
    # 4 of the 17 windows will do; ten tries miss them all with probability (13/17)^10 = 0.068
    assert 0.75 in shares
    assert 1 <= shares.count(1.0) <= 18  # 6.8 expected, standard deviation 2.5
    assert set(shares) == {0.75, 1.0}


def test_after_ten_tries_the_last_window_is_taken() -> None:
    draws = rng(3)
    result = cut("absolute", (2, 2), 0.75)(numbered(9, 9), draws)
    repeated = rng(3)
    corners = [[int(repeated.integers(0, 7, endpoint=True)) for _ in range(2)] for _ in range(CROP_TRIES)]
    assert result.image[0, 0, :2].tolist() == corners[-1]
    assert draws.bit_generator.state == repeated.bit_generator.state


def test_any_window_will_do_with_a_share_of_one_or_without_labels() -> None:
    for share, labels in ((1.0, True), (0.75, False)):
        whole = numbered(9, 9)
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
    result = PadToMultiple(divisor=4)(numbered(5, 8), rng())
    assert result.size == (8, 8)
    assert result.labels is not None
    assert (result.labels[5:] == NO_CLASS).all()
    assert (result.image[5:] == 128).all()
    assert PadToMultiple(divisor=4, at_least=(6, 13))(numbered(5, 8), rng()).size == (8, 16)


def test_whole_multiples_are_left_as_they_are() -> None:
    original = numbered(8, 8)
    assert PadToMultiple(divisor=4)(original, rng()) is original


def test_a_crop_of_a_stack_of_maps_cuts_each() -> None:
    base = numbered(4, 4)
    stack = np.arange(32).reshape(2, 4, 4)
    original = LabeledImage(image=base.image, labels=stack, image_pad=0, label_pad=0)
    result = crop(original, Window(top=1, left=2, height=2, width=1))
    assert result.labels is not None
    assert result.labels.tolist() == stack[:, 1:3, 2:3].tolist()
    assert result.image[..., :2].tolist() == [[[1, 2]], [[2, 2]]]
