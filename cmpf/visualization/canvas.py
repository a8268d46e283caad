# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""A canvas for overlays: enlarges small images, and tints and outlines regions."""

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

MIN_LONG_SIDE = 640  # smaller images are enlarged to it, so that labels fit
_SMOOTHING = 1.0  # sigma in pixels of the original image, by which enlarged borders are smoothed
_MAX_SIGMA = 12.0  # canvas pixels; limits the time for images of a few pixels
# Share of the area of an enlarged region; thin regions that smoothing reduces more are not smoothed.
_MIN_KEPT_AREA = 0.6
_DARK, _WHITE = (18, 18, 24), (255, 255, 255)
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # Rec. 601
_TILE_ROWS = 128  # rows processed at a time; the float copies of a whole photograph take gigabytes


class Canvas:
    """An image to draw on.

    original_size: (H, W) of the image.
    pixels: (H, W, 3) uint8, enlarged so that the longer side has at least MIN_LONG_SIDE pixels.
    scale: canvas pixels per pixel of the original, >= 1.
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
        """Checks that a result has the size (H, W) of the original image.

        Args:
            what: name of the result in the error message.
        Raises:
            ImageError: the sizes differ.
        """
        if tuple(size) != self.original_size:
            raise ImageError(
                f"{what} of {tuple(size)} (H, W) on an image of {self.original_size}; "
                "draw results on the image that they were made from"
            )

    def enlarge_regions(self, regions: Regions, count: int) -> Regions:
        """Resizes a map of region numbers to the canvas's size, with smooth borders if it is enlarged.

        Args:
            regions: (H, W) of the original image, values 0..count - 1.
        """
        if self.scale == 1:
            return regions
        highest = np.full(self.size, -1.0, dtype=np.float32)
        result = np.zeros(self.size, dtype=np.int64)
        for number in range(count):
            smooth = self._resize_smooth(regions == number)
            higher = smooth > highest
            highest[higher], result[higher] = smooth[higher], number
        for number in range(count):
            nearest = self._resize_nearest(regions == number)
            if (result == number).sum() < _MIN_KEPT_AREA * nearest.sum():
                result[nearest] = number
        return result

    def enlarge_mask(self, mask: Mask) -> Mask:
        """Resizes a mask to the canvas's size, with a smooth border if it is enlarged."""
        if self.scale == 1:
            return mask
        smooth: Mask = self._resize_smooth(mask) > 0.5
        nearest = self._resize_nearest(mask)
        return smooth if smooth.sum() >= _MIN_KEPT_AREA * nearest.sum() else nearest

    def fill_regions(self, regions: Regions, colors: Sequence[Color | None], opacity: float) -> None:
        """Tints and outlines regions.

        Args:
            regions: (H, W) of the canvas, indices into `colors`.
            colors: color of each region; None = not drawn.
            opacity: in [0, 1].
        """
        _paint(self.pixels, regions, colors, opacity, self.line_width)

    def fill_mask(self, mask: Mask, color: Color, opacity: float) -> None:
        """Tints and outlines one mask (H, W) of the canvas, on top of what is already drawn."""
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
        """The canvas as an RGB image."""
        return Image.fromarray(self.pixels)

    def _resize_smooth(self, mask: Mask) -> Pixels:
        """The mask at the canvas's size after a Gaussian filter, in [0, 1]."""
        from scipy import ndimage  # a tenth of the time to a first prediction; rarely needed

        large = self._resize_nearest(mask).astype(np.float32)
        sigma = min(_SMOOTHING * self.scale, _MAX_SIGMA)
        smooth: Pixels = ndimage.gaussian_filter(large, sigma=sigma, mode="nearest", truncate=3.0)
        return smooth

    def _resize_nearest(self, mask: Mask) -> Mask:
        height, width = self.size
        large = Image.fromarray(mask.astype(np.uint8)).resize((width, height), Image.Resampling.NEAREST)
        # Not Pillow's mode "1", which gives bools stored as 255: fill_mask uses the bytes.
        return np.asarray(large) > 0


def reduce_image(image: npt.NDArray[np.uint8], step: int) -> npt.NDArray[np.uint8]:
    """Averages squares of step x step pixels of an image (H, W, 3); those at the right and bottom may be smaller.

    Unlike Pillow's `reduce`, it needs no copy of the image.
    """
    rows = step * max(1, _TILE_ROWS // step)
    tiles = (Image.fromarray(image[top : top + rows]).reduce(step) for top in range(0, len(image), rows))
    return np.concatenate([np.asarray(tile) for tile in tiles])


def _paint(
    pixels: npt.NDArray[np.uint8],
    regions: Regions,
    colors: Sequence[Color | None],
    opacity: float,
    line_width: float,
) -> None:
    """Tints and outlines the regions of pixels (H, W, 3) that have a color, in place."""
    dark_end = 0.55 * line_width
    light_end = dark_end + line_width
    margin = int(np.ceil(light_end)) + 1  # rows around a tile whose borders affect it
    for top in range(0, pixels.shape[0], _TILE_ROWS):
        extended = slice(max(0, top - margin), top + _TILE_ROWS + margin)
        tile_rows = slice(top - extended.start, top - extended.start + _TILE_ROWS)
        numbers = regions[top : top + _TILE_ROWS]
        tile = np.moveaxis(pixels[top : top + _TILE_ROWS], 2, 0).astype(np.float32, order="C")
        _tint(tile, numbers, colors, opacity)
        border = _borders(regions[extended])
        if border.any():
            near, distance = near_border(border, light_end, tile_rows)
            near_numbers = numbers.reshape(-1).take(near)
            _outline(tile.reshape(3, -1), near, near_numbers, distance, colors, dark_end, light_end)
        tile += 0.5  # rounds to nearest; cannot exceed 255.5, because all values are means of colors
        for channel, plane in enumerate(tile):  # three times as fast as assigning all channels at once
            pixels[top : top + _TILE_ROWS, :, channel] = plane


def near_border(
    border: Mask, reach: float, rows: slice
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float32]]:
    """Finds the pixels that are nearer than `reach` pixels to a border.

    Equals scipy's distance transform in a tenth of its time, because larger distances are not computed.

    Args:
        border: (H, W).
        rows: the rows to search.
    Returns:
        Flat indices of the pixels in these rows, and their Euclidean distances to the border; (N,) each.
    """
    steps = int(np.ceil(reach)) - 1
    far = (steps + 1) ** 2
    # Small types are faster; no value exceeds far + steps**2.
    dtype = np.uint8 if far + steps**2 < 2**8 else np.uint16
    flags: npt.NDArray[Any] = border.astype(dtype)
    closeness = flags * dtype(far)  # far - squared distance along the row
    for step in range(1, steps + 1):
        left, right = np.s_[:, :-step], np.s_[:, step:]
        shifted = flags * dtype(far - step * step)
        np.maximum(closeness[left], shifted[right], out=closeness[left])
        np.maximum(closeness[right], shifted[left], out=closeness[right])
    row_squares = dtype(far) - closeness
    squares = row_squares[rows].copy()
    start, stop, _ = rows.indices(len(border))
    for step in range(1, steps + 1):
        for shift in (-step, step):
            first = min(max(start, -shift), stop)
            last = max(min(stop, len(border) - shift), first)
            part = squares[first - start : last - start]
            np.minimum(part, row_squares[first + shift : last + shift] + dtype(step * step), out=part)
    near = np.flatnonzero(squares < int(np.ceil(reach * reach)))
    return near, np.sqrt(squares.reshape(-1)[near], dtype=np.float32)


def _tint(tile: Pixels, numbers: Regions, colors: Sequence[Color | None], opacity: float) -> None:
    """Tints pixels (3, h, w) by region, in place."""
    indices = numbers.astype(np.intp)
    drawn = np.array([color is not None for color in colors]).take(indices)
    share = np.float32(opacity)
    table = np.array([color or _DARK for color in colors], dtype=np.float32) * share
    # Fade the image to gray first; otherwise a red ball in a green class would look brown, like another class.
    gray = sum((weight * plane for weight, plane in zip(_LUMA, tile, strict=True)), np.float32(0))
    gray *= share * (1 - share)
    for channel, plane in enumerate(tile):
        tinted = plane * np.square(1 - share)
        tinted += gray
        tinted += table[:, channel].take(indices)
        np.copyto(plane, tinted, where=drawn)


def _outline(
    tile: Pixels,
    near: npt.NDArray[np.intp],
    numbers: Regions,
    distance: Pixels,
    colors: Sequence[Color | None],
    dark_end: float,
    light_end: float,
) -> None:
    """Draws outlines on a tile (3, N), in place: dark up to `dark_end` pixels from a border, then light to `light_end`.

    Args:
        near: (M,) indices of the pixels near a border.
        numbers: (M,) their region numbers.
        distance: (M,) their distances to the border.
    """
    light_table = np.array([mix(color or _WHITE, _WHITE, 0.55) for color in colors], dtype=np.float32)
    drawn = np.array([color is not None for color in colors], dtype=np.float32)
    light = 0.9 * drawn.take(numbers) * np.clip(light_end - distance, 0, 1)
    dark = 0.85 * np.clip(dark_end - distance, 0, 1)
    for plane, tones, darkest in zip(tile, light_table.T, _DARK, strict=True):
        line = plane.take(near)
        line += (tones.take(numbers) - line) * light
        line += (np.float32(darkest) - line) * dark
        plane[near] = line


def _borders(regions: Regions) -> Mask:
    """Pixels with another region to the right, left, above or below; the edge of the image is no border."""
    border = np.zeros(regions.shape, dtype=bool)
    across, down = regions[:, 1:] != regions[:, :-1], regions[1:] != regions[:-1]
    border[:, 1:] |= across
    border[:, :-1] |= across
    border[1:] |= down
    border[:-1] |= down
    return border
