# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The surface that overlays are painted on: enlarged where small, filled and outlined region by region."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from cmpf.errors import ImageError
from cmpf.formats.masks import mask_box
from cmpf.visualization.palette import Color, mix

Pixels = npt.NDArray[np.float32]
Regions = npt.NDArray[np.integer[Any]]
Mask = npt.NDArray[np.bool_]

MIN_LONG_SIDE = 640  # smaller images are enlarged to it, or no label would fit
_SMOOTHING = 1.0  # pixels of the small image; rounds the stairs of an enlarged border
_MAX_BLUR = 12.0  # canvas pixels; images of a few pixels keep their stairs, blurring them would take minutes
_MUST_SURVIVE = 0.6  # of an enlarged region's area; thin ones that smoothing would eat keep their stairs
_DARK, _WHITE = (18, 18, 24), (255, 255, 255)
_GRAY = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # Rec. 601 luma
_TILE = 128  # rows


class Canvas:
    """An image being painted.

    pixels: (H, W, 3) uint8, enlarged so that the longer side has MIN_LONG_SIDE pixels or more.
    scale: canvas pixels for a pixel of the original, >= 1.
    """

    def __init__(self, image: npt.NDArray[np.uint8] | Image.Image) -> None:
        """
        Raises:
            ImageError: the image is empty or not (H, W, 3) uint8.
        """
        array = np.asarray(image.convert("RGB") if isinstance(image, Image.Image) else image)
        if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8 or 0 in array.shape:
            raise ImageError(
                f"cannot draw on an array of shape {array.shape} and type {array.dtype}; "
                "give an image (H, W, 3) of uint8 with at least one pixel"
            )
        self.original_size = (int(array.shape[0]), int(array.shape[1]))
        self.scale = max(1.0, MIN_LONG_SIDE / max(self.original_size))
        if self.scale > 1:
            height, width = (max(1, round(side * self.scale)) for side in self.original_size)
            resized = Image.fromarray(array).resize((width, height), Image.Resampling.LANCZOS)
            array = np.asarray(resized)
        self.pixels = np.array(array)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the canvas."""
        return int(self.pixels.shape[0]), int(self.pixels.shape[1])

    @property
    def line_width(self) -> float:
        """Width of outlines in canvas pixels."""
        return max(2.0, 0.0026 * float(np.sqrt(self.size[0] * self.size[1])))

    def check(self, what: str, size: Sequence[int]) -> None:
        """Compares the (H, W) of a result with the original image's.

        Raises:
            ImageError: they differ.
        """
        if tuple(size) != self.original_size:
            raise ImageError(
                f"{what} of {tuple(size)} (H, W) on an image of {self.original_size}; "
                "draw results on the image that they were made from"
            )

    def enlarge_regions(self, regions: Regions, count: int) -> Regions:
        """Region numbers 0..count - 1 at the canvas's size, with smooth borders where it was enlarged.

        Args:
            regions: (H, W) of the original.
            count: how many numbers there are.
        """
        if self.scale == 1:
            return regions
        best = np.full(self.size, -1.0, dtype=np.float32)
        winner = np.zeros(self.size, dtype=np.int64)
        for number in range(count):
            share = self._soft(regions == number)
            ahead = share > best
            best[ahead], winner[ahead] = share[ahead], number
        for number in range(count):
            square = self._square(regions == number)
            if (winner == number).sum() < _MUST_SURVIVE * square.sum():
                winner[square] = number
        return winner

    def enlarge_mask(self, mask: Mask) -> Mask:
        """A mask at the canvas's size, with a smooth border where the image was enlarged."""
        if self.scale == 1:
            return mask
        inside: Mask = self._soft(mask) > 0.5
        square = self._square(mask)
        return inside if inside.sum() >= _MUST_SURVIVE * square.sum() else square

    def _soft(self, mask: Mask) -> Pixels:
        """How much of each canvas pixel's neighborhood lies in a mask of the original, 0..1."""
        from scipy import ndimage  # a tenth of the time to a first prediction, which small images alone need

        large = self._square(mask).astype(np.float32)
        sigma = min(_SMOOTHING * self.scale, _MAX_BLUR)
        soft: Pixels = ndimage.gaussian_filter(large, sigma=sigma, mode="nearest", truncate=3.0)
        return soft

    def _square(self, mask: Mask) -> Mask:
        """The mask with each pixel as a square."""
        height, width = self.size
        large = Image.fromarray(mask.astype(np.uint8)).resize((width, height), Image.Resampling.NEAREST)
        return np.asarray(large) > 0  # Pillow's images of one bit give flags whose bytes are 255

    def fill_regions(self, regions: Regions, colors: Sequence[Color | None], opacity: float) -> None:
        """Tints each region and outlines it.

        Args:
            regions: (H, W) of the canvas, numbers into `colors`.
            colors: color of each region; None leaves the image as it is.
            opacity: 0..1.
        """
        _paint(self.pixels, regions, colors, opacity, self.line_width)

    def fill_mask(self, mask: Mask, color: Color, opacity: float) -> None:
        """Tints one mask (H, W) of the canvas and outlines it; what was painted before shines through."""
        if not mask.any():
            return
        margin = int(np.ceil(2 * self.line_width)) + 1
        x, y, width, height = mask_box(mask)
        window = (
            slice(max(0, y - margin), y + height + margin),
            slice(max(0, x - margin), x + width + margin),
        )
        _paint(self.pixels[window], mask[window].view(np.uint8), [None, color], opacity, self.line_width)

    def image(self) -> Image.Image:
        """The painted image, RGB."""
        return Image.fromarray(self.pixels)


def reduced(image: npt.NDArray[np.uint8], step: int) -> npt.NDArray[np.uint8]:
    """Means of squares of step x step pixels of (H, W, 3), at the ends of what is there, without a copy of all."""
    rows = step * max(1, _TILE // step)
    tiles = (Image.fromarray(image[top : top + rows]).reduce(step) for top in range(0, len(image), rows))
    return np.concatenate([np.asarray(tile) for tile in tiles])


def _paint(
    pixels: npt.NDArray[np.uint8],
    regions: Regions,
    colors: Sequence[Color | None],
    opacity: float,
    line_width: float,
) -> None:
    """Tints pixels (H, W, 3) by region and outlines the regions that have a color, in place."""
    dark_end = 0.55 * line_width
    light_end = dark_end + line_width
    margin = int(np.ceil(light_end)) + 1  # rows around a tile in which a border is seen in it
    for top in range(0, pixels.shape[0], _TILE):  # in tiles, for a photograph's copies would fill gigabytes
        around = slice(max(0, top - margin), top + _TILE + margin)
        own = slice(top - around.start, top - around.start + _TILE)
        numbers = regions[top : top + _TILE]
        tile = np.moveaxis(pixels[top : top + _TILE], 2, 0).astype(np.float32, order="C")
        _tint(tile, numbers, colors, opacity)
        border = _borders(regions[around])
        if border.any():
            near, distance = near_border(border, light_end, own)
            places = numbers.reshape(-1).take(near)
            _outline(tile.reshape(3, -1), near, places, distance, colors, dark_end, light_end)
        tile += 0.5  # never below 0 or above 255.5: all are means of colors
        for channel, plane in enumerate(tile):  # three times as fast as all at once
            pixels[top : top + _TILE, :, channel] = plane


def near_border(
    border: Mask, reach: float, rows: slice
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float32]]:
    """Pixels of some rows that are nearer than `reach` pixels to a border: their places in these rows, row by row, and
    their distances.

    As scipy's distance transform of the whole has them, which takes ten times as long, for it looks at all distances.
    """
    steps = int(np.ceil(reach)) - 1
    far = (steps + 1) ** 2
    kind = np.uint8 if far + steps**2 < 2**8 else np.uint16  # many at once; none is above 2 * far
    flags: npt.NDArray[Any] = border.astype(kind)
    closer = flags * kind(far)  # far less the squares of the distances along a row
    for step in range(1, steps + 1):
        left, right = np.s_[:, :-step], np.s_[:, step:]
        closeness = flags * kind(far - step * step)
        np.maximum(closer[left], closeness[right], out=closer[left])
        np.maximum(closer[right], closeness[left], out=closer[right])
    across = kind(far) - closer
    squares = across[rows].copy()
    start, stop, _ = rows.indices(len(border))
    for step in range(1, steps + 1):
        for shift in (-step, step):
            first = min(max(start, -shift), stop)
            last = max(min(stop, len(border) - shift), first)
            part = squares[first - start : last - start]
            np.minimum(part, across[first + shift : last + shift] + kind(step * step), out=part)
    near = np.flatnonzero(squares < int(np.ceil(reach * reach)))
    return near, np.sqrt(squares.reshape(-1)[near], dtype=np.float32)


def _tint(tile: Pixels, numbers: Regions, colors: Sequence[Color | None], opacity: float) -> None:
    """Tints pixels (3, h, w) by region, in place."""
    painted, places = np.array([color is not None for color in colors]), numbers.astype(np.intp)
    there = painted.take(places)
    share = np.float32(opacity)
    table = np.array([color or _DARK for color in colors], dtype=np.float32) * share
    # The image fades to gray first, or a red ball in a green class would look brown, like another.
    gray = sum((weight * plane for weight, plane in zip(_GRAY, tile, strict=True)), np.float32(0))
    gray *= share * (1 - share)
    for channel, plane in enumerate(tile):
        tinted = plane * np.square(1 - share)
        tinted += gray
        tinted += table[:, channel].take(places)
        np.copyto(plane, tinted, where=there)


def _outline(
    tile: Pixels,
    near: npt.NDArray[np.intp],
    numbers: Regions,
    distance: Pixels,
    colors: Sequence[Color | None],
    dark_end: float,
    light_end: float,
) -> None:
    """Pixels (3, N) near a border: dark up to one distance from it, of a light tone of the color up to another."""
    light_table = np.array([mix(color or _WHITE, _WHITE, 0.55) for color in colors], dtype=np.float32)
    light = 0.9 * _painted(colors).take(numbers) * np.clip(light_end - distance, 0, 1)
    dark = 0.85 * np.clip(dark_end - distance, 0, 1)
    for plane, tones, darkest in zip(tile, light_table.T, _DARK, strict=True):
        line = plane.take(near)
        line += (tones.take(numbers) - line) * light
        line += (np.float32(darkest) - line) * dark
        plane[near] = line


def _painted(colors: Sequence[Color | None]) -> npt.NDArray[np.float32]:
    """1 where a region has a color."""
    return np.array([color is not None for color in colors], dtype=np.float32)


def _borders(regions: Regions) -> Mask:
    """Pixels with another region to the right, left, above or below; the image's edge is no border."""
    border = np.zeros(regions.shape, dtype=bool)
    across, down = regions[:, 1:] != regions[:, :-1], regions[1:] != regions[:-1]
    border[:, 1:] |= across
    border[:, :-1] |= across
    border[1:] |= down
    border[:-1] |= down
    return border
