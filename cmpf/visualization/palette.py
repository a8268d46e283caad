# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Colors of classes, which are the same in every image, and shades of them for instances."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

Color = tuple[int, int, int]  # sRGB, 0..255
OKLCH = tuple[float, float, float]  # lightness 0..1, chroma 0..about 0.3, hue in degrees

# Candidate colors. Grays, near-black and near-white are excluded: they would look like no tint.
_LIGHTNESS = (0.52, 0.60, 0.68, 0.76, 0.84)
_CHROMA = (0.12, 0.16, 0.20)
_HUES = 60
_FIRST: OKLCH = (0.68, 0.20, 258.0)  # class 0 is blue
_LIGHTNESS_WEIGHT = 0.6  # lightness separates classes less well, because the image below adds its own
_NAMED_COLORS: dict[str, OKLCH] = {
    "red": (0.58, 0.20, 27.0),
    "orange": (0.72, 0.16, 55.0),
    "yellow": (0.84, 0.16, 98.0),
    "green": (0.62, 0.18, 145.0),
    "blue": (0.55, 0.20, 262.0),
    "purple": (0.52, 0.20, 305.0),
    "violet": (0.52, 0.20, 295.0),
    "pink": (0.74, 0.15, 355.0),
    "brown": (0.50, 0.09, 60.0),
    "black": (0.42, 0.0, 0.0),
    "white": (0.90, 0.0, 0.0),
    "gray": (0.65, 0.0, 0.0),
    "grey": (0.65, 0.0, 0.0),
}
# Offsets of lightness and hue for the first, second, ... instance of a class.
_SHADES = ((0.0, 0.0), (-0.08, 8.0), (0.08, -8.0), (-0.04, -16.0), (0.04, 16.0), (-0.12, 0.0))


def class_color(index: int, name: str = "") -> Color:
    """The color of a class: one that its name contains, else the index-th color of a palette of distinct colors.

    Args:
        index: class index, >= 0.
    """
    return shade(index, 0, name)


def shade(index: int, number: int, name: str = "") -> Color:
    """The color of the number-th instance (from 0) of a class; number 0 has the class color."""
    return _shade(_base_color(index, name), number)


def shades(categories: Sequence[int], names: Sequence[str]) -> list[Color]:
    """The colors of segments: a different shade for each segment of the same class.

    Args:
        categories: class index of each segment.
        names: class names by class index.
    """
    seen: Counter[OKLCH] = Counter()
    colors = []
    for category in categories:
        base = _base_color(category, names[category])
        colors.append(_shade(base, seen[base]))
        seen[base] += 1
    return colors


def mix(color: Color, other: Color, share: float) -> Color:
    """Linear interpolation from the first color (share 0) to the other (share 1)."""
    r, g, b = (round(a + (c - a) * share) for a, c in zip(color, other, strict=True))
    return r, g, b


def oklch_to_rgb(color: OKLCH) -> Color:
    """OKLCH to sRGB; reduces the chroma of a color outside sRGB until it fits."""
    lightness, chroma, hue = color
    r, g, b = (_encode(c) for c in _linear_rgb(lightness, _chroma_in_gamut(lightness, chroma, hue), hue))
    return r, g, b


def _base_color(index: int, name: str) -> OKLCH:
    # A "red circle" with a blue tint would contradict its label.
    for word in name.lower().replace("-", " ").split():
        if word in _NAMED_COLORS:
            return _NAMED_COLORS[word]
    return _palette()[index % len(_palette())]


def _shade(base: OKLCH, number: int) -> Color:
    lightness, chroma, hue = base
    lightness_offset, hue_offset = _SHADES[number % len(_SHADES)]
    return oklch_to_rgb((min(max(lightness + lightness_offset, 0.42), 0.9), chroma, hue + hue_offset))


@lru_cache(maxsize=1)
def _palette() -> tuple[OKLCH, ...]:
    """All candidates in the order of farthest-point sampling in OKLab."""
    candidates = [_FIRST]
    for lightness in _LIGHTNESS:
        for hue in (360 * step / _HUES for step in range(_HUES)):
            # Chromas outside sRGB are reduced to the same color.
            chromas = sorted({_chroma_in_gamut(lightness, chroma, hue) for chroma in _CHROMA})
            candidates += [(lightness, chroma, hue) for chroma in chromas if chroma >= 0.10]
    points = np.array(
        [
            (_LIGHTNESS_WEIGHT * lightness, c * math.cos(math.radians(h)), c * math.sin(math.radians(h)))
            for lightness, c, h in candidates
        ]
    )
    order = [0]
    distance = np.linalg.norm(points - points[0], axis=1)
    while len(order) < len(candidates):
        distance[order[-1]] = -1.0
        farthest = int(distance.argmax())
        order.append(farthest)
        distance = np.minimum(distance, np.linalg.norm(points - points[farthest], axis=1))
        distance[order] = -1.0
    return tuple(candidates[i] for i in order)


def _chroma_in_gamut(lightness: float, chroma: float, hue: float) -> float:
    """The largest chroma up to the given one, in steps of 0.005, that is inside sRGB."""
    while chroma > 0 and not all(-1e-4 <= c <= 1.0001 for c in _linear_rgb(lightness, chroma, hue)):
        chroma = round(chroma - 0.005, 4)
    return max(chroma, 0.0)


def _linear_rgb(lightness: float, chroma: float, hue: float) -> tuple[float, float, float]:
    """OKLCH to linear sRGB (Björn Ottosson's OKLab)."""
    a, b = chroma * math.cos(math.radians(hue)), chroma * math.sin(math.radians(hue))
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return (
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
    )


def _encode(linear: float) -> int:
    """The sRGB transfer function, to 0..255."""
    value = min(max(linear, 0.0), 1.0)
    value = 12.92 * value if value <= 0.0031308 else 1.055 * value ** (1 / 2.4) - 0.055
    return round(255 * value)
