# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Where things lie in a scene: their outlines, how regions of stuff divide the image, and which things hide which."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from cmpf.shapeworld.categories import Category
from cmpf.shapeworld.textures import Array

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


Ids = NDArray[np.int32]

# Pixels of a 128 x 128 image: what is smaller is no segment but a left-over.
MIN_SEGMENT_AREA = 30
_PLACING_TRIES = 8
_MAX_ANGLE = np.deg2rad(30)


@dataclass(frozen=True)
class Crowding:
    """How full a scene is. Lengths are in pixels of a 128 x 128 image.

    things: least and most things wanted; fewer lie in the scene where no place was found.
    radius: least and most.
    visible: share of its area that each thing keeps in view, at least.
    stuff_area: pixels that each region of stuff keeps in view, at least.
    """

    things: tuple[int, int]
    radius: tuple[float, float]
    visible: float
    stuff_area: float


NORMAL = Crowding(things=(2, 5), radius=(16, 34), visible=0.55, stuff_area=500)
HARD = Crowding(things=(5, 9), radius=(9, 20), visible=0.25, stuff_area=300)


def _border(rng: np.random.Generator, size: int, level: float) -> Array:
    """A wavy, tilted line across the image: (size,) heights as shares of the image."""
    x = np.linspace(0, 1, size, dtype=np.float32)
    tilt = rng.uniform(-0.16, 0.16) * (x - 0.5)
    wave = rng.uniform(0.0, 0.03) * np.sin(x * rng.uniform(4, 14) + rng.uniform(0, 6))
    ripple = rng.uniform(0.0, 0.012) * np.sin(x * rng.uniform(20, 45) + rng.uniform(0, 6))
    line: Array = level + tilt + wave + ripple
    return line


def stuff_regions(rng: np.random.Generator, *, size: int, count: int) -> Ids:
    """Divides the image into `count` (2 or 3) regions by wavy borders.

    Returns:
        (size, size) int32 with values 0 (the uppermost region) to count - 1.
    """
    line = np.linspace(0, 1, size, dtype=np.float32)
    upper = _border(rng, size, rng.uniform(0.35, 0.65) if count == 2 else rng.uniform(0.28, 0.4))
    regions = (line[:, None] >= upper[None, :]).astype(np.int32)
    if count == 3:
        if rng.random() < 0.5:
            below = line[:, None] >= _border(rng, size, rng.uniform(0.64, 0.74))[None, :]
        else:
            below = line[None, :] >= _border(rng, size, rng.uniform(0.38, 0.62))[:, None]
        regions[below & (regions == 1)] = 2
    return regions


@dataclass(frozen=True)
class PlacedThing:
    """A thing in its place: category and material, (n, n) coverage, and where its upper left pixel lies."""

    category_id: int
    material: str
    alpha: Array
    top: int
    left: int

    def windows(self, size: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """The part inside a (size, size) image: slices (rows, columns) of the image, and of `alpha`."""
        side = self.alpha.shape[0]
        inside, own = [], []
        for start in (self.top, self.left):
            first, last = max(start, 0), min(start + side, size)
            inside.append(slice(first, last))
            own.append(slice(first - start, last - start))
        return (inside[0], inside[1]), (own[0], own[1])


class Canvas:
    """Labels of a scene in the making; a thing laid on top is refused if it would hide too much."""

    def __init__(self, regions: Ids, *, stuff: int, crowding: Crowding, unit: float) -> None:
        """
        Args:
            regions: (H, H) int32 with values 0..stuff - 1.
            stuff: number of regions.
            crowding: what must stay in view.
            unit: length in pixels of a pixel of a 128 x 128 image.
        """
        self.ids: Ids = regions + 1
        self.things: list[PlacedThing] = []
        self._crowding = crowding
        self._smallest = MIN_SEGMENT_AREA * unit * unit
        # Least number of visible pixels of each label; label 0 does not occur.
        self._least = [0.0] + [crowding.stuff_area * unit * unit] * stuff

    def _hides_its_like(self, thing: PlacedThing, covered: Ids) -> bool:
        """True if a thing of the same material would be covered: their common edge could hardly be seen."""
        first = len(self._least) - len(self.things)
        behind = (self.things[label - first] for label in np.unique(covered) if label >= first)
        return any(other.material == thing.material for other in behind)

    def add(self, thing: PlacedThing) -> bool:
        """Lays the thing on top; False, and nothing changed, if any segment would be seen too little."""
        size = self.ids.shape[0]
        inside, own = thing.windows(size)
        mask = thing.alpha >= 0.5
        least = max(self._crowding.visible * np.count_nonzero(mask), self._smallest)
        shown = mask[own]
        if np.count_nonzero(shown) < least or self._hides_its_like(thing, self.ids[inside][shown]):
            return False
        ids = self.ids.copy()
        label = len(self._least)
        ids[inside][shown] = label
        if np.any(np.bincount(ids.ravel(), minlength=label + 1)[:label] < self._least):
            return False
        self.ids = ids
        self.things.append(thing)
        self._least.append(least)
        return True


def place_thing(
    canvas: Canvas, rng: np.random.Generator, *, category: Category, crowding: Crowding, unit: float
) -> bool:
    """Tries sizes, angles and positions until the thing fits, smaller each time; False if none does."""
    size = canvas.ids.shape[0]
    low, high = crowding.radius
    radius = rng.uniform(low, high)
    for _ in range(_PLACING_TRIES):
        alpha = coverage(category.shape, radius=radius * unit, angle=rng.uniform(-_MAX_ANGLE, _MAX_ANGLE))
        # Only tips may stick out of the image: a bolt that is cut in half is a bar.
        margin = radius * unit
        y, x = rng.uniform(margin, size - margin, 2)
        half = alpha.shape[0] // 2
        if canvas.add(PlacedThing(category.id, category.material, alpha, int(y) - half, int(x) - half)):
            return True
        radius = max(low, 0.85 * radius)
    return False
