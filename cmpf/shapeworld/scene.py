# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""One scene: what is in it, its image and its labels, all from one seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cmpf.errors import DatasetError
from cmpf.shapeworld.captions import scene_caption, thing_caption
from cmpf.shapeworld.categories import CATEGORIES, STUFF, THINGS, Category
from cmpf.shapeworld.layout import HARD, NORMAL, Canvas, Crowding, place_thing, stuff_regions
from cmpf.shapeworld.rendering import render

MIN_SIZE, MAX_SIZE = 64, 1024


@dataclass(frozen=True)
class SceneSegment:
    """One thing, or all that is visible of one stuff category.

    id: its value in `Scene.ids`, from 1. category_id: index in `CATEGORIES`.
    caption: "a red circle on grass" for a thing, the category's name for stuff.
    """

    id: int
    category_id: int
    caption: str


@dataclass(frozen=True)
class Scene:
    """An image and its panoptic labels.

    image: (H, W, 3) uint8 RGB. ids: (H, W) int32, each pixel the id of one of `segments`, no void.
    segments: by id, stuff first. caption: names all that can be seen.
    """

    image: NDArray[np.uint8]
    ids: NDArray[np.int32]
    segments: list[SceneSegment]
    caption: str


def _draw_category(rng: np.random.Generator, pool: tuple[Category, ...], seen_only: bool) -> Category:
    """A category of the pool; seen and unseen ones as often as each other, uniform within the two."""
    seen = seen_only or rng.random() < 0.5
    group = [category for category in pool if category.seen == seen]
    return group[int(rng.integers(len(group)))]


def _draw_stuff(rng: np.random.Generator, count: int, seen_only: bool) -> list[Category]:
    """`count` different stuff categories from the top of the image downwards; sky is always uppermost."""
    chosen: list[Category] = []
    while len(chosen) < count:
        category = _draw_category(rng, STUFF, seen_only)
        if category not in chosen:
            chosen.append(category)
    return sorted(chosen, key=lambda category: category.name != "sky")


def _populate(
    canvas: Canvas, rng: np.random.Generator, *, crowding: Crowding, seen_only: bool, unit: float
) -> None:
    low, high = crowding.things
    for _ in range(int(rng.integers(low, high + 1))):
        category = _draw_category(rng, THINGS, seen_only)
        place_thing(canvas, rng, category=category, crowding=crowding, unit=unit)


def _describe(
    canvas: Canvas, regions: NDArray[np.int32], stuff: list[Category]
) -> tuple[list[SceneSegment], str]:
    """Segments in the order of their ids, and the scene's caption."""
    segments = [SceneSegment(i, category.id, category.name) for i, category in enumerate(stuff, start=1)]
    for i, thing in enumerate(canvas.things, start=len(stuff) + 1):
        ground = stuff[int(np.bincount(regions[canvas.ids == i]).argmax())].name
        caption = thing_caption(CATEGORIES[thing.category_id].name, ground)
        segments.append(SceneSegment(i, thing.category_id, caption))
    names = [CATEGORIES[thing.category_id].name for thing in canvas.things]
    return segments, scene_caption(names, [category.name for category in stuff])


def generate_scene(seed: int, *, size: int = 128, seen_only: bool, hard: bool = False) -> Scene:
    """Draws a scene of 2 or 3 stuff regions and 2 to 5 things (hard: 5 to 9, smaller and more hidden).

    Args:
        seed: >= 0; equal arguments give equal scenes, on every machine with the same numpy and Pillow.
        size: height and width in pixels, 64..1024; everything grows with it.
        seen_only: only seen categories appear; otherwise seen and unseen ones about equally.
        hard: crowded scenes.
    Raises:
        DatasetError: a negative seed or a size out of range.
    """
    if seed < 0:
        raise DatasetError(f"seed {seed}: must be 0 or more")
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise DatasetError(f"size {size}: must be between {MIN_SIZE} and {MAX_SIZE} pixels")
    rng = np.random.default_rng(seed)
    unit = size / 128
    crowding = HARD if hard else NORMAL
    stuff = _draw_stuff(rng, int(rng.integers(2, 4)), seen_only)
    regions = stuff_regions(rng, size=size, count=len(stuff))
    canvas = Canvas(regions, stuff=len(stuff), crowding=crowding, unit=unit)
    _populate(canvas, rng, crowding=crowding, seen_only=seen_only, unit=unit)
    segments, caption = _describe(canvas, regions, stuff)
    image = render(
        rng, regions=regions, stuff=[category.name for category in stuff], things=canvas.things, unit=unit
    )
    return Scene(image=image, ids=canvas.ids, segments=segments, caption=caption)
