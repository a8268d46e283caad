# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import colorsys

import numpy as np
import pytest

from cmpf.data.transforms.color import (
    SSDColorJitter,
    scale_contrast,
    scale_saturation,
    shift_brightness,
    turn_hue,
)
from cmpf.data.transforms.geometric import LabeledImage


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


def labeled(image: np.ndarray) -> LabeledImage:
    return LabeledImage(
        image=image.astype(np.uint8), labels=np.zeros(image.shape[:2], np.int32), image_pad=0, label_pad=0
    )


@pytest.mark.parametrize("degrees", [-36.0, 0.0, 17.0, 120.0, 350.0])
def test_hue_turns_as_in_colorsys(degrees: float) -> None:
    image = colors()
    for before, after in zip(image[0], turn_hue(image, degrees)[0], strict=True):
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
    original = labeled(np.full((1, 1, 3), (200, 100, 50)))
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


def test_contrast_comes_before_or_after_the_colors() -> None:
    # Contrast 2 clips red at 255; saturation 0.5 halves the distances to the largest channel.
    # First contrast: (255, 100, 100) -> (255, 177.5, 177.5) -> 178 (rounded to even).
    # Last: (200, 125, 125) -> (255, 250, 250).
    jitter = SSDColorJitter(brightness=0, contrast=(2, 2), saturation=(0.5, 0.5), hue=0, probability=1.0)
    rng = np.random.default_rng(0)
    original = labeled(np.full((1, 1, 3), (200, 50, 50)))
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
    original = labeled(colors())
    for seed in range(20):
        result = jitter(original, np.random.default_rng(seed))
        assert result.labels is original.labels
        assert result.image.dtype == np.uint8
    assert jitter(original, np.random.default_rng(7)).image.tolist() == (
        jitter(original, np.random.default_rng(7)).image.tolist()
    )


def test_probability_zero_changes_nothing() -> None:
    original = labeled(colors())
    result = SSDColorJitter(probability=0.0)(original, np.random.default_rng(0))
    assert np.array_equal(result.image, original.image)
