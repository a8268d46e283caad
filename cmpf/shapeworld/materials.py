# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Surfaces of the things: five plain colors and three patterns, each a fixed pair of colors."""

from __future__ import annotations

import numpy as np

from cmpf.shapeworld.textures import Array, Color, mix

_PLAIN: dict[str, Color] = {
    "red": (214, 28, 34),
    "yellow": (250, 214, 20),
    "green": (0, 158, 72),
    "blue": (36, 64, 214),
    "purple": (136, 44, 176),
}
# Pairs chosen away from the plain colors and the stuff; period in pixels of a 128 x 128 image.
_STRIPED: tuple[Color, Color] = ((16, 16, 20), (248, 248, 248))
_DOTTED: tuple[Color, Color] = ((244, 82, 158), (255, 255, 255))
_CHECKERED: tuple[Color, Color] = ((18, 14, 12), (255, 140, 0))


def _soft_step(wave: Array, sharpness: float) -> Array:
    """0 where the wave is negative, 1 where it is positive, a short ramp between (no aliasing)."""
    weight: Array = np.clip(0.5 + sharpness * wave, 0, 1)
    return weight


def _pattern(
    name: str, rng: np.random.Generator, side: int, unit: float
) -> tuple[tuple[Color, Color], Array]:
    """The pair of colors of a patterned material and the (side, side) weight of the second one."""
    line = np.arange(side, dtype=np.float32) / np.float32(unit)
    y, x = line[:, None] + rng.uniform(0, 8), line[None, :] + rng.uniform(0, 8)
    stretch = rng.uniform(0.92, 1.12)
    if name == "striped":
        slope = rng.uniform(0.8, 1.2)
        return _STRIPED, _soft_step(np.sin((x + slope * y) * (2 * np.pi / (7.5 * stretch))), 1.6)
    if name == "dotted":
        step = 2 * np.pi / (7.5 * stretch)
        return _DOTTED, _soft_step(np.cos(x * step) + np.cos(y * step) - 0.55, 1.2)
    step = np.pi / (5.0 * stretch)
    return _CHECKERED, _soft_step(np.sin(x * step) * np.sin(y * step), 3.0)


def surface(material: str, rng: np.random.Generator, *, side: int, unit: float) -> Array:
    """A square of a material, before shading.

    Args:
        material: one of `categories.MATERIALS`.
        side: pixels.
        unit: length in pixels of a pixel of a 128 x 128 image.
    Returns:
        (3, side, side) float32 RGB, about 0..255.
    """
    tint = np.float32(rng.uniform(0.9, 1.08))
    if material in _PLAIN:
        color = np.array(_PLAIN[material], np.float32) + rng.normal(0, 7, 3).astype(np.float32)
        return np.broadcast_to((color * tint)[:, None, None], (3, side, side))
    (dark, light), weight = _pattern(material, rng, side, unit)
    return mix(dark, light, weight) * tint
