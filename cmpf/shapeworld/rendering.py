# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""From labels to an image: textures, shadows, shading, and what a camera adds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from cmpf.shapeworld.layout import PlacedThing
from cmpf.shapeworld.materials import surface
from cmpf.shapeworld.textures import Array, Patch, stuff_texture


def _blurred(alpha: Array, radius: float) -> Array:
    blurred = Image.fromarray((alpha * 255).astype(np.uint8)).filter(ImageFilter.BoxBlur(radius))
    return np.asarray(blurred, np.float32) / 255


def _paint_stuff(
    rng: np.random.Generator, regions: NDArray[np.int32], stuff: Sequence[str], unit: float
) -> Array:
    """(3, H, H) float32; each texture is drawn only in the rows and columns that its region needs."""
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
    """Darkens what lies behind the thing, away from the light."""
    shift_y, shift_x = (round(-3.5 * unit * part) for part in light)
    pad = round(4 * unit)
    shadow = replace(
        thing,
        alpha=np.pad(thing.alpha, pad),
        top=thing.top - pad + shift_y,
        left=thing.left - pad + shift_x,
    )
    inside, own = shadow.windows(image.shape[1])
    image[(slice(None), *inside)] *= 1 - 0.45 * _blurred(shadow.alpha, 2 * unit)[own]


def _paint_thing(
    image: Array, rng: np.random.Generator, thing: PlacedThing, light: tuple[float, float], unit: float
) -> None:
    side = thing.alpha.shape[0]
    colors = surface(thing.material, rng, side=side, unit=unit)
    ramp = np.linspace(-1, 1, side, dtype=np.float32)
    lit = light[0] * ramp[:, None] + light[1] * ramp[None, :]
    # The rim turns away from the eye and is a little darker.
    rim = 0.62 + 0.38 * np.clip(_blurred(thing.alpha, 1.5 * unit) * 2 - 1, 0, 1)
    shaded = colors * ((1 + 0.16 * lit) * rim)
    inside, own = thing.windows(image.shape[1])
    behind = image[(slice(None), *inside)]
    behind += thing.alpha[own] * (shaded[(slice(None), *own)] - behind)


def _photograph(image: Array, rng: np.random.Generator, unit: float) -> NDArray[np.uint8]:
    """Slight blur with a kernel of 3 x 3, then sensor noise: (3, H, H) float -> (H, H, 3) uint8."""
    side = np.float32(rng.uniform(0.03, 0.25) * min(unit, 1.5))
    soft = np.pad(image, ((0, 0), (1, 1), (1, 1)), mode="edge")
    soft = soft[:, 1:-1] + side * (soft[:, :-2] + soft[:, 2:])
    soft = (soft[:, :, 1:-1] + side * (soft[:, :, :-2] + soft[:, :, 2:])) / (1 + 2 * side) ** 2
    # Uniform noise is drawn several times faster than normal noise and looks the same at this height.
    grain = np.float32(rng.uniform(5, 17))
    soft += grain * (rng.random(soft.shape, dtype=np.float32) - np.float32(0.5))
    return np.ascontiguousarray(np.clip(soft, 0, 255).astype(np.uint8).transpose(1, 2, 0))


def render(
    rng: np.random.Generator,
    *,
    regions: NDArray[np.int32],
    stuff: Sequence[str],
    things: Sequence[PlacedThing],
    unit: float,
) -> NDArray[np.uint8]:
    """Paints stuff, then the things in the order in which they were laid.

    Args:
        regions: (H, H) int32, index into `stuff`.
        stuff: names of stuff categories.
        things: from the undermost to the uppermost.
        unit: length in pixels of a pixel of a 128 x 128 image.
    Returns:
        (H, H, 3) uint8 RGB.
    """
    image = _paint_stuff(rng, regions, stuff, unit)
    direction = rng.uniform(np.pi * 0.2, np.pi * 0.8)
    light = (-float(np.sin(direction)), float(np.cos(direction)))
    for thing in things:
        _paint_shadow(image, thing, light, unit)
        _paint_thing(image, rng, thing, light, unit)
    return _photograph(image, rng, unit)
