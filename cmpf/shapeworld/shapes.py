# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Outlines of the things, and their coverage of the pixel grid."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Array = NDArray[np.floating[Any]]

# The outline is filled at this multiple of the image's size and averaged down, which anti-aliases the edge.
OVERSAMPLING = 4


def _regular(corners: int, radius: float, start: float = -np.pi / 2) -> Array:
    angle = start + np.arange(corners) * 2 * np.pi / corners
    return (radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)).astype(np.float32)


def _star() -> Array:
    points = np.empty((10, 2), np.float32)
    points[0::2] = _regular(5, 1.2)
    points[1::2] = _regular(5, 0.5, start=-np.pi / 2 + np.pi / 5)
    return points


# Contours in units of the thing's radius, x to the right and y down; the second contour, if any, is a hole.
_OUTLINES: dict[str, tuple[Array, ...]] = {
    "circle": (_regular(40, 0.9),),
    "bar": (np.array([(-1.1, -0.42), (1.1, -0.42), (1.1, 0.42), (-1.1, 0.42)], np.float32),),
    "ring": (_regular(40, 1.0), _regular(32, 0.56)),
    "triangle": (np.array([(0.0, -1.0), (1.05, 0.8), (-1.05, 0.8)], np.float32),),
    "star": (_star(),),
    "bolt": (
        np.array(
            [
                (0.0, -1.2),
                (0.75, -1.2),
                (0.4, -0.35),
                (0.95, -0.35),
                (-0.4, 1.25),
                (-0.1, 0.25),
                (-0.7, 0.25),
            ],
            np.float32,
        ),
    ),
}


def coverage(shape: str, *, radius: float, angle: float) -> Array:
    """How much of each pixel a thing covers, on an odd square around its center that holds it with a margin.

    Args:
        shape: one of `categories.SHAPES`.
        radius: of the thing, pixels; outlines reach up to 1.3 times as far.
        angle: turn, radians.
    Returns:
        (n, n) float32, 0 outside to 1 inside; the center of the thing is the middle pixel.
    """
    cosine, sine = np.cos(angle), np.sin(angle)
    contours = [
        contour @ np.array([[cosine, sine], [-sine, cosine]]) * radius for contour in _OUTLINES[shape]
    ]
    half = int(np.ceil(np.abs(contours[0]).max())) + 1
    side = (2 * half + 1) * OVERSAMPLING
    canvas = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(canvas)
    for contour, value in zip(contours, (255, 0), strict=False):
        draw.polygon((contour * OVERSAMPLING + side / 2).ravel().tolist(), fill=value)
    return np.asarray(canvas.reduce(OVERSAMPLING), np.float32) / 255
