# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""One color for each class index, the same in every image, and shades of it for instances."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

Color = tuple[int, int, int]  # sRGB, 0..255
OKLCH = tuple[float, float, float]  # lightness 0..1, chroma 0..about 0.3, hue in degrees

# Colors to choose from. Grays, near-black and near-white stay out: they would read as no tint at all.
_LIGHTNESS = (0.52, 0.60, 0.68, 0.76, 0.84)
_CHROMA = (0.12, 0.16, 0.20)
_HUES = 60
_FIRST: OKLCH = (0.68, 0.20, 258.0)  # class 0 is blue
_LIGHTNESS_WEIGHT = 0.6  # lightness of the image below shines through, so it tells classes apart less well
# The basic color terms of English.
_NAMED: dict[str, OKLCH] = {
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
# Changes of lightness and hue for the first, second, ... instance of a class.
_SHADES = ((0.0, 0.0), (-0.08, 8.0), (0.08, -8.0), (-0.04, -16.0), (0.04, 16.0), (-0.12, 0.0))


def class_color(index: int, name: str = "") -> Color:
    """Color of a class (index >= 0): as far as possible from all those before it, or the one that its name says."""
    return shade(index, 0, name)


def shade(index: int, number: int, name: str = "") -> Color:
    """Color of the number-th instance (from 0) of a class; number 0 has the class's own color."""
    return _shaded(_base(index, name), number)


def shades(categories: Sequence[int], names: Sequence[str]) -> list[Color]:
    """The colors of segments of these classes: lighter and darker where one comes again.

    Args:
        names: name of each class index.
    """
    seen: Counter[OKLCH] = Counter()
    colors = []
    for category in categories:
        base = _base(category, names[category])
        colors.append(_shaded(base, seen[base]))
        seen[base] += 1
    return colors


def _base(index: int, name: str) -> OKLCH:
    """A red circle under a blue tint would contradict its label."""
    for word in name.lower().replace("-", " ").split():
        if word in _NAMED:
            return _NAMED[word]
    return _palette()[index % len(_palette())]


def _shaded(base: OKLCH, number: int) -> Color:
    lightness, chroma, hue = base
    lighter, turn = _SHADES[number % len(_SHADES)]
    return oklch_to_rgb((min(max(lightness + lighter, 0.42), 0.9), chroma, hue + turn))


def mix(color: Color, other: Color, share: float) -> Color:
    """`share` (0..1) of the other color in the first."""
    r, g, b = (round(a + (c - a) * share) for a, c in zip(color, other, strict=True))
    return r, g, b


@lru_cache(maxsize=1)
def _palette() -> tuple[OKLCH, ...]:
    """All candidates, ordered so that each is the farthest in OKLab from everything before it."""
    candidates = [_FIRST]
    for lightness in _LIGHTNESS:
        for hue in (360 * step / _HUES for step in range(_HUES)):
            # Where sRGB ends early, several chromas are one color.
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


def oklch_to_rgb(color: OKLCH) -> Color:
    """OKLCH to sRGB. A color outside sRGB loses chroma until it fits; its hue and lightness stay."""
    lightness, chroma, hue = color
    inside = _chroma_in_gamut(lightness, chroma, hue)
    r, g, b = (_encode(c) for c in _linear_rgb(lightness, inside, hue))
    return r, g, b


def _chroma_in_gamut(lightness: float, chroma: float, hue: float) -> float:
    """The largest chroma up to the wanted one, in steps of 0.005, that sRGB can show."""
    while chroma > 0 and not all(-1e-4 <= c <= 1.0001 for c in _linear_rgb(lightness, chroma, hue)):
        chroma = round(chroma - 0.005, 4)
    return max(chroma, 0.0)


def _linear_rgb(lightness: float, chroma: float, hue: float) -> tuple[float, float, float]:
    """Björn Ottosson's OKLab to linear sRGB."""
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
    value = min(max(linear, 0.0), 1.0)
    value = 12.92 * value if value <= 0.0031308 else 1.055 * value ** (1 / 2.4) - 0.055
    return round(255 * value)
