# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Color jitter of SSD (Liu et al., 2016): brightness, contrast, saturation and hue, in changing order.

The four functions take and give (H, W, 3) float32 RGB, 0..255.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from cmpf.data.transforms.geometric import LabeledImage

FloatRGB: TypeAlias = NDArray[np.float32]


class SSDColorJitter:
    """Each of the four distortions is applied with probability 1/2; contrast comes second or last, at random.

    Defaults are the published amounts. Hue is +-18 there, counted as OpenCV does with 180 steps a circle:
    18 / 180 * 360 = 36 degrees.
    """

    def __init__(
        self,
        *,
        brightness: float = 32.0,
        contrast: tuple[float, float] = (0.5, 1.5),
        saturation: tuple[float, float] = (0.5, 1.5),
        hue: float = 36.0,
        probability: float = 0.5,
    ) -> None:
        """
        Args:
            brightness: largest shift, of 255.
            contrast, saturation: smallest and largest factor.
            hue: largest turn in degrees.
            probability: of each distortion.
        """
        self.brightness = brightness
        self.contrast = contrast
        self.saturation = saturation
        self.hue = hue
        self.probability = probability

    def __call__(self, labeled: LabeledImage, rng: np.random.Generator) -> LabeledImage:
        image = labeled.image.astype(np.float32)
        if self._wanted(rng):
            image = shift_brightness(image, rng.uniform(-self.brightness, self.brightness))
        contrast_first = rng.random() < 0.5
        if contrast_first:
            image = self._maybe_contrast(image, rng)
        if self._wanted(rng):
            image = scale_saturation(image, rng.uniform(*self.saturation))
        if self._wanted(rng):
            image = turn_hue(image, rng.uniform(-self.hue, self.hue))
        if not contrast_first:
            image = self._maybe_contrast(image, rng)
        return replace(labeled, image=np.rint(image).astype(np.uint8))

    def _wanted(self, rng: np.random.Generator) -> bool:
        return bool(rng.random() < self.probability)

    def _maybe_contrast(self, image: FloatRGB, rng: np.random.Generator) -> FloatRGB:
        return scale_contrast(image, rng.uniform(*self.contrast)) if self._wanted(rng) else image


def shift_brightness(image: FloatRGB, amount: float) -> FloatRGB:
    """Adds an amount to all channels."""
    shifted: FloatRGB = np.clip(image + np.float32(amount), 0, 255)
    return shifted


def scale_contrast(image: FloatRGB, factor: float) -> FloatRGB:
    """Multiplies all channels; as published, black is the point that stays."""
    scaled: FloatRGB = np.clip(image * np.float32(factor), 0, 255)
    return scaled


def scale_saturation(image: FloatRGB, factor: float) -> FloatRGB:
    """Multiplies the saturation of HSV, at most up to 1; hue and value stay.

    A channel lies S V below V at the most, so scaling S scales each channel's distance to V.
    """
    value, span = _value_and_span(image)
    largest = value / np.maximum(span, np.float32(1e-6))  # factor that makes S = 1
    scale = np.minimum(np.float32(factor), largest)
    scaled: FloatRGB = value[..., None] - (value[..., None] - image) * scale[..., None]
    return scaled


def turn_hue(image: FloatRGB, degrees: float) -> FloatRGB:
    """Turns the hue of HSV; saturation and value stay."""
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    value, span = _value_and_span(image)
    # Hue in sixths of the circle, from the largest channel: red 0, green 2, blue 4.
    above = np.where(value == red, green - blue, np.where(value == green, blue - red, red - green))
    start = np.where(value == red, np.float32(0), np.where(value == green, np.float32(2), np.float32(4)))
    hue = start + above / np.maximum(span, np.float32(1e-6)) + np.float32(degrees / 60)
    turned = np.empty_like(image)
    for channel, offset in enumerate((5, 3, 1)):
        # How far a channel lies below the value, by its distance from the hue: none within 1, all beyond 2.
        sixths = hue + np.float32(offset)
        sixths -= 6 * np.floor(sixths / 6)
        turned[..., channel] = value - span * np.clip(np.minimum(sixths, 4 - sixths), 0, 1)
    return turned


def _value_and_span(image: FloatRGB) -> tuple[FloatRGB, FloatRGB]:
    """(H, W) largest channel, and how far the smallest lies below; reductions over three values are slow."""
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    value: FloatRGB = np.maximum(np.maximum(red, green), blue)
    return value, value - np.minimum(np.minimum(red, green), blue)
