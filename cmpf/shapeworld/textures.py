# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Textures of stuff regions, and colors and patterns of things.

The texture of each stuff category is a function of (generator, patch) that returns (3, height, width) float32 RGB
0..255; channels come first because numpy is three times slower with an innermost axis of length 3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Array = NDArray[np.floating[Any]]
Color = tuple[int, int, int]


@dataclass(frozen=True)
class Patch:
    """A rectangle to fill.

    shape: (height, width) in pixels.
    unit: image size / 128, the scale of all lengths.
    """

    shape: tuple[int, int]
    unit: float

    def grid(self) -> tuple[Array, Array]:
        """y (height, 1) and x (1, width) in pixels of a 128 x 128 image."""
        height, width = self.shape
        unit = np.float32(self.unit)
        return np.arange(height, dtype=np.float32)[:, None] / unit, np.arange(width, dtype=np.float32) / unit


def smooth_noise(rng: np.random.Generator, patch: Patch, rows: int, columns: int) -> Array:
    """Interpolated random values of about -1..1, with a grid of `rows` x `columns` for a whole image."""
    height, width = patch.shape
    patch_rows = max(2, round(rows * height / (128 * patch.unit)))
    patch_columns = max(2, round(columns * width / (128 * patch.unit)))
    grid = Image.fromarray(rng.uniform(-1, 1, (patch_rows, patch_columns)).astype(np.float32))
    return np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC))


def fractal_noise(rng: np.random.Generator, patch: Patch, cells: int, octaves: int = 3) -> Array:
    """Sum of smooth noise, each octave with twice the frequency and 0.55 times the amplitude: about -1..1."""
    total = smooth_noise(rng, patch, cells, cells)
    for octave in range(1, octaves):
        count = cells << octave
        total = total + np.float32(0.55**octave) * smooth_noise(rng, patch, count, count)
    return total


def mix(dark: Color, light: Color, weight: Array) -> Array:
    """Interpolates between dark (weight 0) and light (weight 1), clipped: (h, w) -> (3, h, w)."""
    low, high = (np.array(color, np.float32)[:, None, None] for color in (dark, light))
    return low + np.clip(weight, 0, 1) * (high - low)


def _speckle(rng: np.random.Generator, patch: Patch) -> Array:
    """White noise with mean 0 and standard deviation 1; uniform, which is four times faster than normal."""
    return (rng.random(patch.shape, dtype=np.float32) - np.float32(0.5)) * np.float32(12**0.5)


def _cells(position: Array) -> tuple[NDArray[np.intp], Array]:
    """Divides a line into cells of length 1: cell index modulo 32 and position 0..1 in the cell."""
    first = np.floor(position)
    return first.astype(np.intp) & 31, position - first


def _sky(rng: np.random.Generator, patch: Patch) -> Array:
    y, _ = patch.grid()
    clouds = fractal_noise(rng, patch, 4)
    haze = np.clip(y / 110, 0, 1) * 0.5
    return mix((95, 160, 240), (240, 246, 255), haze + np.clip(clouds * 1.3 - 0.15, 0, 1) * 0.75)


def _grass(rng: np.random.Generator, patch: Patch) -> Array:
    blades = smooth_noise(rng, patch, 22, 72)
    patches = smooth_noise(rng, patch, 5, 5)
    return mix((45, 95, 25), (140, 190, 70), 0.5 + 0.38 * blades + 0.2 * patches)


def _sand(rng: np.random.Generator, patch: Patch) -> Array:
    y, x = patch.grid()
    warp = smooth_noise(rng, patch, 5, 5) * 2.2
    slant = np.float32(rng.uniform(-0.15, 0.15))
    ripples = np.sin(y * 0.75 + x * slant + warp)
    return mix((205, 172, 112), (245, 225, 170), 0.55 + 0.25 * ripples + 0.13 * _speckle(rng, patch))


def _water(rng: np.random.Generator, patch: Patch) -> Array:
    y, x = patch.grid()
    bend = 1.6 * np.sin(x * 0.16 + np.float32(rng.uniform(0, 6)))
    swell = np.sin(y * 0.62 + bend + 2 * smooth_noise(rng, patch, 8, 4))
    glitter = np.clip(smooth_noise(rng, patch, 48, 14) - 0.45, 0, 1) * 1.5
    return mix((8, 62, 88), (110, 190, 195), 0.3 + 0.22 * swell + glitter)


def _road(rng: np.random.Generator, patch: Patch) -> Array:
    y, x = patch.grid()
    worn = 0.12 * smooth_noise(rng, patch, 5, 5)
    asphalt = mix((52, 52, 56), (112, 112, 118), 0.45 + 0.22 * _speckle(rng, patch) + worn)
    _, lane = _cells(y / 40 + np.float32(rng.random()))
    _, dash = _cells(x / 24 + np.float32(rng.random()))
    return np.where((lane < 0.08) & (dash < 0.6), np.float32(225), asphalt)


def _snow(rng: np.random.Generator, patch: Patch) -> Array:
    drifts = fractal_noise(rng, patch, 4, 2)
    return mix((196, 208, 232), (252, 253, 255), 0.75 + 0.45 * drifts + 0.06 * _speckle(rng, patch))


def _brick(rng: np.random.Generator, patch: Patch) -> Array:
    y, x = patch.grid()
    row, up = _cells(y / 8 + np.float32(rng.random()))
    column, along = _cells(x / 17 + 0.5 * (row % 2).astype(np.float32) + np.float32(rng.random()))
    tone = rng.random((32, 32), dtype=np.float32)[row, column]
    wall = mix((135, 50, 34), (196, 100, 72), tone + 0.1 * _speckle(rng, patch))
    return np.where((up < 0.19) | (along < 0.09), np.float32(205), wall)


def _wood(rng: np.random.Generator, patch: Patch) -> Array:
    y, x = patch.grid()
    board, across = _cells(x / 26 + np.float32(rng.random()))
    bend = np.sin(y * 0.05 + np.float32(rng.uniform(0, 6)))
    grain = np.sin(x * 1.15 + 3.5 * smooth_noise(rng, patch, 3, 7) + bend)
    tone = rng.uniform(-0.18, 0.18, 32).astype(np.float32)[board]
    planks = mix((88, 52, 22), (182, 122, 66), 0.5 + 0.3 * grain + tone + 0.06 * _speckle(rng, patch))
    return np.where(across < 0.06, planks * np.float32(0.35), planks)


def _tiles(rng: np.random.Generator, patch: Patch) -> Array:
    y, x = patch.grid()
    row, up = _cells((x + y) / 15 + np.float32(rng.random()))
    column, along = _cells((x - y) / 15 + np.float32(rng.random()))
    tone = rng.random((32, 32), dtype=np.float32)[row, column]
    # A highlight in one corner of each tile makes it look glazed.
    floor = mix((0, 140, 130), (90, 215, 200), tone * 0.8 + 0.35 * (1 - up) * along)
    return np.where((up < 0.14) | (along < 0.14), np.float32(240), floor)


def _gravel(rng: np.random.Generator, patch: Patch) -> Array:
    canvas = Image.new("L", patch.shape[::-1], 46)
    draw = ImageDraw.Draw(canvas)
    spots = _scattered(rng, patch, 7)
    reach = rng.uniform(2.3, 4.3, spots.shape) * patch.unit
    tones = rng.integers(105, 215, len(spots)).tolist()
    for box, tone in zip(np.hstack([spots - reach, spots + reach]).tolist(), tones, strict=True):
        draw.ellipse(box, fill=tone)
    gray = np.asarray(canvas, np.float32) + 7 * _speckle(rng, patch)
    return gray * np.array([1.0, 0.96, 0.91], np.float32)[:, None, None]


_LEAF = np.array(
    [(-1.0, 0.0), (-0.35, -0.45), (0.35, -0.4), (1.0, 0.0), (0.35, 0.4), (-0.35, 0.45)], np.float32
)
_LEAF_COLORS = np.array(
    [(62, 34, 16), (200, 92, 20), (222, 140, 28), (160, 52, 22), (190, 165, 45), (120, 70, 28)], np.float32
)


def _leaves(rng: np.random.Generator, patch: Patch) -> Array:
    canvas = Image.new("L", patch.shape[::-1], 0)
    draw = ImageDraw.Draw(canvas)
    spots = _scattered(rng, patch, 8.5)
    angle, length = rng.uniform(0, 2 * np.pi, len(spots)), rng.uniform(6, 9, len(spots)) * patch.unit
    cosine, sine = length * np.cos(angle), length * np.sin(angle)
    turn = np.stack([np.stack([cosine, sine], -1), np.stack([-sine, cosine], -1)], 1)
    outlines = (_LEAF @ turn + spots[:, None]).reshape(len(spots), -1).tolist()
    kinds = rng.integers(1, len(_LEAF_COLORS), len(spots)).tolist()
    for outline, kind in zip(outlines, kinds, strict=True):
        draw.polygon(outline, fill=kind)
    return _LEAF_COLORS.T.copy()[:, np.asarray(canvas)] + 6 * _speckle(rng, patch)


def _bamboo(rng: np.random.Generator, patch: Patch) -> Array:
    y, x = patch.grid()
    cane, across = _cells(x / 10 + np.float32(rng.random()))
    _, along = _cells(y / 30 + rng.random(32, dtype=np.float32)[cane])
    tone = rng.uniform(-0.15, 0.15, 32).astype(np.float32)[cane]
    round_cane = 0.95 * np.sin(np.float32(np.pi) * across) - 0.1 + tone
    canes = mix((70, 84, 10), (214, 216, 96), round_cane + 0.05 * _speckle(rng, patch))
    return np.where(along < 0.07, canes * np.float32(0.5), canes)


def _scattered(rng: np.random.Generator, patch: Patch, spacing: float) -> Array:
    """Points (n, 2) float32 (x, y) of a jittered grid slightly larger than the patch, in random order."""
    step = spacing * patch.unit
    rows, columns = (int(side / step) + 2 for side in patch.shape)
    grid = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), -1).reshape(-1, 2)
    jittered = (grid + rng.uniform(-0.4, 0.4, grid.shape) - 0.25) * step
    return rng.permutation(jittered).astype(np.float32)


_TEXTURES: dict[str, Callable[[np.random.Generator, Patch], Array]] = {
    "sky": _sky,
    "grass": _grass,
    "sand": _sand,
    "water": _water,
    "road": _road,
    "snow": _snow,
    "brick": _brick,
    "wood": _wood,
    "tiles": _tiles,
    "gravel": _gravel,
    "leaves": _leaves,
    "bamboo": _bamboo,
}


def stuff_texture(name: str, rng: np.random.Generator, patch: Patch) -> Array:
    """Draws the texture of a stuff category with random brightness and tint.

    Returns:
        (3, height, width) float32 RGB, about 0..255 (not clipped).
    """
    tint = rng.normal(1.0, 0.012, 3) * rng.uniform(0.92, 1.06)
    return _TEXTURES[name](rng, patch) * tint.astype(np.float32)[:, None, None]


_PLAIN: dict[str, Color] = {
    "red": (214, 28, 34),
    "yellow": (250, 214, 20),
    "green": (0, 158, 72),
    "blue": (36, 64, 214),
    "purple": (136, 44, 176),
}
# Pairs of colors that differ from the plain colors and from stuff.
_STRIPED: tuple[Color, Color] = ((16, 16, 20), (248, 248, 248))
_DOTTED: tuple[Color, Color] = ((244, 82, 158), (255, 255, 255))
_CHECKERED: tuple[Color, Color] = ((18, 14, 12), (255, 140, 0))


def _soft_step(wave: Array, sharpness: float) -> Array:
    """An anti-aliased step: 0 where the wave is negative, 1 where it is positive, with a short ramp between."""
    weight: Array = np.clip(0.5 + sharpness * wave, 0, 1)
    return weight


def _pattern(
    name: str, rng: np.random.Generator, side: int, unit: float
) -> tuple[tuple[Color, Color], Array]:
    """The two colors of a patterned material, and the weight (side, side) of the second one."""
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
    """Draws a square of a material, without shading.

    Args:
        material: one of `categories.MATERIALS`.
        side: in pixels.
        unit: image size / 128, the scale of all lengths.
    Returns:
        (3, side, side) float32 RGB, about 0..255.
    """
    tint = np.float32(rng.uniform(0.9, 1.08))
    if material in _PLAIN:
        color = np.array(_PLAIN[material], np.float32) + rng.normal(0, 7, 3).astype(np.float32)
        return np.broadcast_to((color * tint)[:, None, None], (3, side, side))
    (dark, light), weight = _pattern(material, rng, side, unit)
    return mix(dark, light, weight) * tint
