# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from cmpf.data.transforms.geometric import (
    Augmentation,
    LabeledImage,
    LargeScaleJitter,
    RandomHorizontalFlip,
    Resize,
    ResizeShortestEdge,
    Window,
    pad,
    resize,
)


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
