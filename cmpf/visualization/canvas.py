# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The surface that overlays are painted on: enlarged where small, filled and outlined region by region."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from cmpf.errors import ImageError
from cmpf.visualization.palette import Color, mix

Pixels = npt.NDArray[np.float32]
Regions = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

MIN_LONG_SIDE = 640  # smaller images are enlarged to it, or no label would fit
_SMOOTHING = 1.0  # pixels of the small image; rounds the stairs of an enlarged border
_MAX_BLUR = 12.0  # canvas pixels; images of a few pixels keep their stairs, blurring them would take minutes
_MUST_SURVIVE = 0.6  # of an enlarged region's area; thin ones that smoothing would eat keep their stairs
_DARK, _WHITE = (18, 18, 24), (255, 255, 255)
_GRAY = np.array([[0.299], [0.587], [0.114]], dtype=np.float32)  # Rec. 601 luma
_TILE = 256  # rows


class Canvas:
    """An image being painted.

    pixels: (H, W, 3) float32, 0..255, enlarged so that the longer side has MIN_LONG_SIDE pixels or more.
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
        self.pixels: Pixels = array.astype(np.float32)

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
        large = self._square(mask).astype(np.float32)
        sigma = min(_SMOOTHING * self.scale, _MAX_BLUR)
        soft: Pixels = ndimage.gaussian_filter(large, sigma=sigma, mode="nearest", truncate=3.0)
        return soft

    def _square(self, mask: Mask) -> Mask:
        """The mask with each pixel as a square."""
        height, width = self.size
        large = Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST)
        return np.asarray(large, dtype=bool)

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
        box = ndimage.find_objects(mask.astype(np.int8))
        if not box:
            return
        margin = int(np.ceil(2 * self.line_width)) + 1
        window = tuple(slice(max(0, side.start - margin), side.stop + margin) for side in box[0])
        _paint(self.pixels[window], mask[window].astype(np.int64), [None, color], opacity, self.line_width)

    def image(self) -> Image.Image:
        """The painted image, RGB."""
        return Image.fromarray(np.clip(self.pixels + 0.5, 0, 255).astype(np.uint8))


def _paint(
    pixels: Pixels, regions: Regions, colors: Sequence[Color | None], opacity: float, line_width: float
) -> None:
    """Tints pixels (H, W, 3) by region and outlines the regions that have a color, in place."""
    painted = np.array([color is not None for color in colors], dtype=np.float32)
    table = np.array([color or _DARK for color in colors], dtype=np.float32)
    for top in range(0, pixels.shape[0], _TILE):  # in tiles, for a photograph's copies would fill gigabytes
        tile, numbers = pixels[top : top + _TILE], regions[top : top + _TILE]
        strength = opacity * painted[numbers][..., None]
        # The image fades to gray first, or a red ball in a green class would look brown, like another.
        tile += (tile @ _GRAY - tile) * strength
        tile += (table[numbers] - tile) * strength
    border = _borders(regions)
    if not border.any():
        return
    distance = ndimage.distance_transform_edt(~border).astype(np.float32)
    dark_end = 0.55 * line_width
    light_end = dark_end + line_width
    near = distance < light_end
    numbers, away, line = regions[near], distance[near], pixels[near]
    light_table = np.array([mix(color or _WHITE, _WHITE, 0.55) for color in colors], dtype=np.float32)
    light = 0.9 * painted[numbers] * np.clip(light_end - away, 0, 1)
    line += (light_table[numbers] - line) * light[:, None]
    line += (np.array(_DARK, dtype=np.float32) - line) * (0.85 * np.clip(dark_end - away, 0, 1))[:, None]
    pixels[near] = line


def _borders(regions: Regions) -> Mask:
    """Pixels with another region to the right, left, above or below; the image's edge is no border."""
    border = np.zeros(regions.shape, dtype=bool)
    across, down = regions[:, 1:] != regions[:, :-1], regions[1:] != regions[:-1]
    border[:, 1:] |= across
    border[:, :-1] |= across
    border[1:] |= down
    border[:-1] |= down
    return border
