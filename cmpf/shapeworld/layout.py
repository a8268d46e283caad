# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Layout of a scene: outlines of things, stuff regions, and placement of things with limits on occlusion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from cmpf.shapeworld.categories import Category
from cmpf.shapeworld.textures import Array

# Outlines are filled at this multiple of the image size and averaged, for anti-aliased edges.
OVERSAMPLING = 4


def _regular_polygon(corners: int, radius: float, start: float = -np.pi / 2) -> Array:
    angle = start + np.arange(corners) * 2 * np.pi / corners
    return (radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)).astype(np.float32)


def _star() -> Array:
    points = np.empty((10, 2), np.float32)
    points[0::2] = _regular_polygon(5, 1.2)
    points[1::2] = _regular_polygon(5, 0.5, start=-np.pi / 2 + np.pi / 5)
    return points


# Contours in units of the radius, x to the right and y down; the second contour, if any, is a hole.
_OUTLINES: dict[str, tuple[Array, ...]] = {
    "circle": (_regular_polygon(40, 0.9),),
    "bar": (np.array([(-1.1, -0.42), (1.1, -0.42), (1.1, 0.42), (-1.1, 0.42)], np.float32),),
    "ring": (_regular_polygon(40, 1.0), _regular_polygon(32, 0.56)),
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
    """Pixel coverage of a thing, in a square around it.

    Args:
        shape: one of `categories.SHAPES`.
        radius: in pixels; outlines extend to at most 1.3 times the radius.
        angle: rotation in radians.
    Returns:
        (n, n) float32 with odd n, 0 outside to 1 inside; the thing is centered on the middle pixel.
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

MIN_SEGMENT_AREA = 30  # smallest visible area of a thing, in pixels of a 128 x 128 image
_PLACING_TRIES = 8
_MAX_ANGLE = np.deg2rad(30)


@dataclass(frozen=True)
class Crowding:
    """Number and size of things, and limits on occlusion; lengths and areas are those in a 128 x 128 image.

    things: minimum and maximum number of things to place; the scene has fewer if some find no position.
    radius: minimum and maximum radius.
    visible: minimum visible share of the area of each thing.
    stuff_area: minimum visible area of each stuff region.
    """

    things: tuple[int, int]
    radius: tuple[float, float]
    visible: float
    stuff_area: float


NORMAL = Crowding(things=(2, 5), radius=(16, 34), visible=0.55, stuff_area=500)
HARD = Crowding(things=(5, 9), radius=(9, 20), visible=0.25, stuff_area=300)


def _border(rng: np.random.Generator, size: int, level: float) -> Array:
    """A wavy, tilted line across the image: (size,) heights as fractions of the image height."""
    x = np.linspace(0, 1, size, dtype=np.float32)
    tilt = rng.uniform(-0.16, 0.16) * (x - 0.5)
    wave = rng.uniform(0.0, 0.03) * np.sin(x * rng.uniform(4, 14) + rng.uniform(0, 6))
    ripple = rng.uniform(0.0, 0.012) * np.sin(x * rng.uniform(20, 45) + rng.uniform(0, 6))
    line: Array = level + tilt + wave + ripple
    return line


def stuff_regions(rng: np.random.Generator, *, size: int, count: int) -> Ids:
    """Divides the image into `count` (2 or 3) regions by wavy borders.

    Returns:
        (size, size) int32 with values 0 (the top region) to count - 1.
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
    """A thing with its position.

    alpha: (n, n) pixel coverage 0..1, see `coverage`.
    top, left: position of the upper left pixel of `alpha` in the image, possibly outside.
    """

    category_id: int
    material: str
    alpha: Array
    top: int
    left: int

    def windows(self, size: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """Slices (rows, columns) of a (size, size) image and of `alpha` where both overlap."""
        side = self.alpha.shape[0]
        image_slices, alpha_slices = [], []
        for start in (self.top, self.left):
            first, last = max(start, 0), min(start + side, size)
            image_slices.append(slice(first, last))
            alpha_slices.append(slice(first - start, last - start))
        return (image_slices[0], image_slices[1]), (alpha_slices[0], alpha_slices[1])


class Canvas:
    """Segment ids of a scene; rejects a new thing that would occlude others too much."""

    def __init__(self, regions: Ids, *, stuff: int, crowding: Crowding, unit: float) -> None:
        """
        Args:
            regions: (H, H) int32 with values 0..stuff - 1.
            stuff: number of regions.
            crowding: limits on occlusion.
            unit: H / 128, the scale of all lengths.
        """
        self.ids: Ids = regions + 1
        self.things: list[PlacedThing] = []
        self._crowding = crowding
        self._min_thing_area = MIN_SEGMENT_AREA * unit * unit
        # Minimum number of visible pixels of each segment id; id 0 is not used.
        self._min_areas = [0.0] + [crowding.stuff_area * unit * unit] * stuff

    def add(self, thing: PlacedThing) -> bool:
        """Puts a thing on top; returns False, without changes, if it would hide too much of any segment."""
        size = self.ids.shape[0]
        image_window, alpha_window = thing.windows(size)
        mask = thing.alpha >= 0.5
        min_area = max(self._crowding.visible * np.count_nonzero(mask), self._min_thing_area)
        visible = mask[alpha_window]
        if np.count_nonzero(visible) < min_area:
            return False
        if self._covers_same_material(thing, self.ids[image_window][visible]):
            return False
        ids = self.ids.copy()
        segment_id = len(self._min_areas)
        ids[image_window][visible] = segment_id
        if np.any(np.bincount(ids.ravel(), minlength=segment_id + 1)[:segment_id] < self._min_areas):
            return False
        self.ids = ids
        self.things.append(thing)
        self._min_areas.append(min_area)
        return True

    def _covers_same_material(self, thing: PlacedThing, covered_ids: Ids) -> bool:
        """Whether a covered thing has the same material, so that the edge between them would hardly be visible."""
        first_thing = len(self._min_areas) - len(self.things)
        covered = (self.things[i - first_thing] for i in np.unique(covered_ids) if i >= first_thing)
        return any(other.material == thing.material for other in covered)


def place_thing(
    canvas: Canvas, rng: np.random.Generator, *, category: Category, crowding: Crowding, unit: float
) -> bool:
    """Tries random angles and positions with decreasing size until the thing fits; returns whether it does."""
    size = canvas.ids.shape[0]
    low, high = crowding.radius
    radius = rng.uniform(low, high)
    for _ in range(_PLACING_TRIES):
        alpha = coverage(category.shape, radius=radius * unit, angle=rng.uniform(-_MAX_ANGLE, _MAX_ANGLE))
        # Only tips may extend beyond the image: a bolt cut in half looks like a bar.
        margin = radius * unit
        y, x = rng.uniform(margin, size - margin, 2)
        half = alpha.shape[0] // 2
        if canvas.add(PlacedThing(category.id, category.material, alpha, int(y) - half, int(x) - half)):
            return True
        radius = max(low, 0.85 * radius)
    return False
