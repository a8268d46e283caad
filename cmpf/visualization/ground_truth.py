# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Draws ground truth on images, and arranges images on a contact sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from cmpf.visualization.canvas import Canvas
from cmpf.visualization.labels import INK, Label, font_for, line_height, text_width
from cmpf.visualization.overlay import ImageLike, add_labels, check_class, large_components
from cmpf.visualization.palette import Color, shades
from cmpf.visualization.placement import grid_step, subsample

_TILE_SIZE, _GAP, _FONT_SIZE = 480, 16, 15  # pixels of a contact sheet
_BACKGROUND = (250, 250, 251)


@dataclass(frozen=True)
class TrueRegion:
    """A region of ground truth.

    mask: (H, W) bool.
    category: class index.
    crowd: whether it is a group of objects that are not annotated one by one.
    """

    mask: npt.NDArray[np.bool_]
    category: int
    crowd: bool = False


def draw_ground_truth(
    image: ImageLike,
    regions: Sequence[TrueRegion],
    *,
    names: Sequence[str],
    per_component: bool = False,
    opacity: float = 0.55,
    legend: bool = False,
) -> Image.Image:
    """Draws regions with tint, outline and label; smaller ones on top. Pixels without a region are unchanged.

    Args:
        image: (H, W, 3) uint8 RGB, or a Pillow image.
        regions: may overlap.
        names: class names by class index.
        per_component: whether each large connected component of a region gets a label; for semantic ground truth,
            where a region is a whole class.
        opacity: from 0 (image only) to 1 (colors only).
        legend: whether to add a legend of the classes below the image.
    Raises:
        ImageError: the image is empty, or a mask has another size.
        VocabularyError: a class index has no name.
    """
    canvas = Canvas(image)
    shown = [region for region in regions if region.mask.any()]
    for region in shown:
        canvas.check("ground truth", region.mask.shape)
    categories = [check_class(region.category, names) for region in shown]
    colors = shades(categories, names)
    masks = _paint_regions(canvas, shown, colors, opacity)
    step = grid_step(canvas.size)
    labels = [
        Label(names[region.category] + (" (crowd)" if region.crowd else ""), color, label_mask)
        for region, color, mask in zip(shown, colors, masks, strict=True)
        for label_mask in (large_components(mask, step) if per_component else [subsample(mask, step)])
    ]
    return add_labels(canvas, labels, categories, names, legend)


def contact_sheet(
    images: Sequence[Image.Image], captions: Sequence[str], *, columns: int | None = None
) -> Image.Image:
    """Arranges images in a grid, each at most 480 pixels wide and high, with a caption below it.

    Args:
        images: at least one.
        captions: one per image; the start of a caption that is too long is cut off.
        columns: None = about as many as rows.
    """
    columns = columns or math.ceil(math.sqrt(len(images)))
    tiles = [image.copy() for image in images]
    for tile in tiles:
        tile.thumbnail((_TILE_SIZE, _TILE_SIZE), Image.Resampling.LANCZOS)
    width = max(tile.width for tile in tiles)
    caption_height = round(1.6 * line_height(font_for("A", _FONT_SIZE)))
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    heights = [max(tile.height for tile in row) + caption_height + _GAP for row in rows]
    size = (min(columns, len(tiles)) * (width + _GAP) + _GAP, sum(heights) + _GAP)
    sheet = Image.new("RGB", size, _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for index, (tile, caption) in enumerate(zip(tiles, captions, strict=True)):
        row, column = divmod(index, columns)
        left, top = _GAP + column * (width + _GAP), _GAP + sum(heights[:row])
        sheet.paste(tile, (left, top))
        text = _shorten(caption, width)
        draw.text((left, top + tile.height + 4), text, fill=INK, font=font_for(text, _FONT_SIZE))
    return sheet


def _paint_regions(
    canvas: Canvas, regions: Sequence[TrueRegion], colors: Sequence[Color], opacity: float
) -> list[npt.NDArray[np.bool_]]:
    """Paints the regions; returns their masks at the canvas's size."""
    layers = np.zeros(canvas.original_size, dtype=np.int64)
    for region in regions:
        layers += region.mask
    if layers.max() > 1:
        masks = [canvas.enlarge_mask(region.mask) for region in regions]
        for index in sorted(range(len(masks)), key=lambda index: -int(masks[index].sum())):
            canvas.fill_mask(masks[index], colors[index], opacity)
        return masks
    # Regions that do not overlap are enlarged together, so that smoothing leaves no gaps between them.
    numbers = np.zeros(canvas.original_size, dtype=np.int64)
    for number, region in enumerate(regions, start=1):
        numbers[region.mask] = number
    enlarged = canvas.enlarge_regions(numbers, len(regions) + 1)
    canvas.fill_regions(enlarged, [None, *colors], opacity)
    return [enlarged == number for number in range(1, len(regions) + 1)]


def _shorten(text: str, width: int) -> str:
    """The end of a text, as long as it fits into a width in pixels."""
    shortened = text
    while len(shortened) > 2 and text_width(shortened, font_for(shortened, _FONT_SIZE)) > width:
        shortened = "…" + shortened[2:]
    return shortened
