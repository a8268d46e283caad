# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Color jitter of SSD (Liu et al., 2016): brightness, contrast, saturation and hue.

The four functions take and return (H, W, 3) float32 RGB, 0..255.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from cmpf.data.transforms.geometric import LabeledImage

FloatRGB: TypeAlias = NDArray[np.float32]


class SSDColorJitter:
    """Applies each of the four distortions with probability 1/2; contrast comes second or last, at random.

    Defaults are the published values. The published hue shift is +-18 in OpenCV's units of 180 steps per circle:
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
            brightness: largest shift, on the scale 0..255.
            contrast, saturation: smallest and largest factor.
            hue: largest rotation in degrees.
            probability: probability of each distortion.
        """
        self.brightness = brightness
        self.contrast = contrast
        self.saturation = saturation
        self.hue = hue
        self.probability = probability

    def __call__(self, labeled: LabeledImage, rng: np.random.Generator) -> LabeledImage:
        image = labeled.image.astype(np.float32)
        if self._draw(rng):
            image = shift_brightness(image, rng.uniform(-self.brightness, self.brightness))
        contrast_first = rng.random() < 0.5
        if contrast_first:
            image = self._maybe_contrast(image, rng)
        if self._draw(rng):
            image = scale_saturation(image, rng.uniform(*self.saturation))
        if self._draw(rng):
            image = rotate_hue(image, rng.uniform(-self.hue, self.hue))
        if not contrast_first:
            image = self._maybe_contrast(image, rng)
        return replace(labeled, image=np.rint(image).astype(np.uint8))

    def _draw(self, rng: np.random.Generator) -> bool:
        return bool(rng.random() < self.probability)

    def _maybe_contrast(self, image: FloatRGB, rng: np.random.Generator) -> FloatRGB:
        return scale_contrast(image, rng.uniform(*self.contrast)) if self._draw(rng) else image


def shift_brightness(image: FloatRGB, amount: float) -> FloatRGB:
    """Adds an amount to all channels."""
    shifted: FloatRGB = np.clip(image + np.float32(amount), 0, 255)
    return shifted


def scale_contrast(image: FloatRGB, factor: float) -> FloatRGB:
    """Multiplies all channels; as published, the fixed point is black, not gray."""
    scaled: FloatRGB = np.clip(image * np.float32(factor), 0, 255)
    return scaled


def scale_saturation(image: FloatRGB, factor: float) -> FloatRGB:
    """Multiplies the HSV saturation, clipped at 1; hue and value are unchanged.

    The smallest channel is V - S V, so scaling S scales the distance of each channel to V.
    """
    value, chroma = _value_and_chroma(image)
    max_factor = value / np.maximum(chroma, np.float32(1e-6))  # factor for S = 1
    scale = np.minimum(np.float32(factor), max_factor)
    scaled: FloatRGB = value[..., None] - (value[..., None] - image) * scale[..., None]
    return scaled


def rotate_hue(image: FloatRGB, degrees: float) -> FloatRGB:
    """Rotates the HSV hue; saturation and value are unchanged."""
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    value, chroma = _value_and_chroma(image)
    # Hue in sixths of the circle, relative to the largest channel: red 0, green 2, blue 4.
    difference = np.where(value == red, green - blue, np.where(value == green, blue - red, red - green))
    start = np.where(value == red, np.float32(0), np.where(value == green, np.float32(2), np.float32(4)))
    hue = start + difference / np.maximum(chroma, np.float32(1e-6)) + np.float32(degrees / 60)
    rotated = np.empty_like(image)
    for channel, offset in enumerate((5, 3, 1)):
        # HSV to RGB: V - C clip(min(k, 4 - k), 0, 1) with k = (offset + hue) mod 6.
        k = hue + np.float32(offset)
        k -= 6 * np.floor(k / 6)
        rotated[..., channel] = value - chroma * np.clip(np.minimum(k, 4 - k), 0, 1)
    return rotated


def _value_and_chroma(image: FloatRGB) -> tuple[FloatRGB, FloatRGB]:
    """(H, W) maximum of the channels, and maximum minus minimum. NumPy's reductions over three values are slow."""
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    value: FloatRGB = np.maximum(np.maximum(red, green), blue)
    return value, value - np.minimum(np.minimum(red, green), blue)
