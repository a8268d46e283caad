# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Generates a scene (image, labels and captions) from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from cmpf.errors import DatasetError
from cmpf.shapeworld.categories import CATEGORIES, STUFF, THINGS, Category, scene_caption, thing_caption
from cmpf.shapeworld.layout import HARD, NORMAL, Canvas, Crowding, PlacedThing, place_thing, stuff_regions
from cmpf.shapeworld.textures import Array, Patch, stuff_texture, surface

MIN_SIZE, MAX_SIZE = 64, 1024


@dataclass(frozen=True)
class SceneSegment:
    """One thing, or the visible part of one stuff category.

    id: its value in `Scene.ids`, from 1.
    category_id: index in `CATEGORIES`.
    caption: "a red circle on grass" for a thing, the category name for stuff.
    """

    id: int
    category_id: int
    caption: str


@dataclass(frozen=True)
class Scene:
    """An image and its panoptic labels.

    image: (H, W, 3) uint8 RGB.
    ids: (H, W) int32 segment ids, without void.
    segments: in the order of their ids, stuff first.
    caption: names all things and stuff in the image.
    """

    image: NDArray[np.uint8]
    ids: NDArray[np.int32]
    segments: list[SceneSegment]
    caption: str


def generate_scene(seed: int, *, size: int = 128, seen_only: bool, hard: bool = False) -> Scene:
    """Generates a scene with 2 or 3 stuff regions and 2 to 5 things (hard: 5 to 9, smaller and more occluded).

    Args:
        seed: >= 0; equal arguments give equal scenes on every machine with the same numpy and Pillow.
        size: height and width in pixels, 64..1024; all lengths scale with it.
        seen_only: draw seen categories only; otherwise seen and unseen ones about equally often.
        hard: generate a crowded scene.
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
    _place_things(canvas, rng, crowding=crowding, seen_only=seen_only, unit=unit)
    segments, caption = _describe(canvas, regions, stuff)
    image = render(
        rng, regions=regions, stuff=[category.name for category in stuff], things=canvas.things, unit=unit
    )
    return Scene(image=image, ids=canvas.ids, segments=segments, caption=caption)


def _draw_category(rng: np.random.Generator, pool: tuple[Category, ...], seen_only: bool) -> Category:
    """Draws a category: seen or unseen with equal probability, then uniform within this group."""
    seen = seen_only or rng.random() < 0.5
    group = [category for category in pool if category.seen == seen]
    return group[int(rng.integers(len(group)))]


def _draw_stuff(rng: np.random.Generator, count: int, seen_only: bool) -> list[Category]:
    """Draws `count` different stuff categories, from top to bottom of the image; sky is always at the top."""
    stuff: list[Category] = []
    while len(stuff) < count:
        category = _draw_category(rng, STUFF, seen_only)
        if category not in stuff:
            stuff.append(category)
    return sorted(stuff, key=lambda category: category.name != "sky")


def _place_things(
    canvas: Canvas, rng: np.random.Generator, *, crowding: Crowding, seen_only: bool, unit: float
) -> None:
    low, high = crowding.things
    for _ in range(int(rng.integers(low, high + 1))):
        category = _draw_category(rng, THINGS, seen_only)
        place_thing(canvas, rng, category=category, crowding=crowding, unit=unit)


def _describe(
    canvas: Canvas, regions: NDArray[np.int32], stuff: list[Category]
) -> tuple[list[SceneSegment], str]:
    """The segments in the order of their ids, and the caption of the scene."""
    segments = [SceneSegment(i, category.id, category.name) for i, category in enumerate(stuff, start=1)]
    for i, thing in enumerate(canvas.things, start=len(stuff) + 1):
        ground = stuff[int(np.bincount(regions[canvas.ids == i]).argmax())].name
        caption = thing_caption(CATEGORIES[thing.category_id].name, ground)
        segments.append(SceneSegment(i, thing.category_id, caption))
    names = [CATEGORIES[thing.category_id].name for thing in canvas.things]
    return segments, scene_caption(names, [category.name for category in stuff])


def render(
    rng: np.random.Generator,
    *,
    regions: NDArray[np.int32],
    stuff: Sequence[str],
    things: Sequence[PlacedThing],
    unit: float,
) -> NDArray[np.uint8]:
    """Paints the stuff regions, then the things with their shadows.

    Args:
        regions: (H, H) int32, index into `stuff`.
        stuff: names of stuff categories.
        things: from back to front.
        unit: H / 128, the scale of all lengths.
    Returns:
        (H, H, 3) uint8 RGB.
    """
    image = _paint_stuff(rng, regions, stuff, unit)
    direction = rng.uniform(np.pi * 0.2, np.pi * 0.8)
    light = (-float(np.sin(direction)), float(np.cos(direction)))
    for thing in things:
        _paint_shadow(image, thing, light, unit)
        _paint_thing(image, rng, thing, light, unit)
    return _camera(image, rng, unit)


def _paint_stuff(
    rng: np.random.Generator, regions: NDArray[np.int32], stuff: Sequence[str], unit: float
) -> Array:
    """(3, H, H) float32; each texture is drawn only in the bounding box of its region."""
    image = np.zeros((3, *regions.shape), np.float32)
    for index, name in enumerate(stuff):
        inside = regions == index
        rows, columns = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
        window = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        mask = inside[window]
        np.copyto(
            image[(slice(None), *window)], stuff_texture(name, rng, Patch(mask.shape, unit)), where=mask
        )
    return image


def _paint_shadow(image: Array, thing: PlacedThing, light: tuple[float, float], unit: float) -> None:
    """Darkens the image behind a thing, on the side away from the light."""
    shift_y, shift_x = (round(-3.5 * unit * component) for component in light)
    pad = round(4 * unit)
    shadow = replace(
        thing,
        alpha=np.pad(thing.alpha, pad),
        top=thing.top - pad + shift_y,
        left=thing.left - pad + shift_x,
    )
    image_window, alpha_window = shadow.windows(image.shape[1])
    image[(slice(None), *image_window)] *= 1 - 0.45 * _blur(shadow.alpha, 2 * unit)[alpha_window]


def _paint_thing(
    image: Array, rng: np.random.Generator, thing: PlacedThing, light: tuple[float, float], unit: float
) -> None:
    side = thing.alpha.shape[0]
    colors = surface(thing.material, rng, side=side, unit=unit)
    ramp = np.linspace(-1, 1, side, dtype=np.float32)
    diffuse = light[0] * ramp[:, None] + light[1] * ramp[None, :]
    rim = 0.62 + 0.38 * np.clip(_blur(thing.alpha, 1.5 * unit) * 2 - 1, 0, 1)  # edges are slightly darker
    shaded = colors * ((1 + 0.16 * diffuse) * rim)
    image_window, alpha_window = thing.windows(image.shape[1])
    background = image[(slice(None), *image_window)]
    background += thing.alpha[alpha_window] * (shaded[(slice(None), *alpha_window)] - background)


def _camera(image: Array, rng: np.random.Generator, unit: float) -> NDArray[np.uint8]:
    """Applies a slight 3 x 3 blur and sensor noise: (3, H, H) float -> (H, H, 3) uint8."""
    weight = np.float32(rng.uniform(0.03, 0.25) * min(unit, 1.5))
    blurred = np.pad(image, ((0, 0), (1, 1), (1, 1)), mode="edge")
    blurred = blurred[:, 1:-1] + weight * (blurred[:, :-2] + blurred[:, 2:])
    blurred = (blurred[:, :, 1:-1] + weight * (blurred[:, :, :-2] + blurred[:, :, 2:])) / (
        1 + 2 * weight
    ) ** 2
    # Uniform noise is several times faster than normal noise and looks the same at this amplitude.
    amplitude = np.float32(rng.uniform(5, 17))
    blurred += amplitude * (rng.random(blurred.shape, dtype=np.float32) - np.float32(0.5))
    return np.ascontiguousarray(np.clip(blurred, 0, 255).astype(np.uint8).transpose(1, 2, 0))


def _blur(alpha: Array, radius: float) -> Array:
    blurred = Image.fromarray((alpha * 255).astype(np.uint8)).filter(ImageFilter.BoxBlur(radius))
    return np.asarray(blurred, np.float32) / 255
