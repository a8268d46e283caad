# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Images of ground truth, and a sheet of many of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from cmpf.visualization.canvas import Canvas
from cmpf.visualization.labels import INK, Label, font_for, line_height, text_width
from cmpf.visualization.overlay import ImageLike, checked_class, finished, pieces_of
from cmpf.visualization.palette import Color, shades
from cmpf.visualization.placement import grid_step, thinned

_TILE, _GAP, _LETTERS = 480, 16, 15  # pixels of a contact sheet
_PAPER = (250, 250, 251)


@dataclass(frozen=True)
class TrueRegion:
    """A region of ground truth.

    mask: (H, W) bool. category: class index. crowd: a group of objects that nobody told apart.
    """

    mask: npt.NDArray[np.bool_]
    category: int
    crowd: bool = False


def draw_ground_truth(
    image: ImageLike,
    regions: Sequence[TrueRegion],
    *,
    names: Sequence[str],
    pieces: bool = False,
    opacity: float = 0.55,
    legend: bool = False,
) -> Image.Image:
    """The image with all regions tinted, outlined and named, small ones on top; the rest stays as it is.

    Args:
        image: (H, W, 3) uint8 RGB, or a Pillow image.
        regions: may overlap, as instances do.
        names: name of each class index.
        pieces: name each large connected piece of a region, as one region is a whole class.
        opacity: 0 (image only) .. 1 (colors only).
        legend: add a strip below with the classes in the image.
    Raises:
        ImageError: the image is empty or of another size than a mask.
        VocabularyError: a class index has no name.
    """
    canvas = Canvas(image)
    shown = [region for region in regions if region.mask.any()]
    for region in shown:
        canvas.check("ground truth", region.mask.shape)
    categories = [checked_class(region.category, names) for region in shown]
    colors = shades(categories, names)
    masks = _painted(canvas, shown, colors, opacity)
    step = grid_step(canvas.size)
    labels = [
        Label(names[region.category] + (" (crowd)" if region.crowd else ""), color, piece, step)
        for region, color, mask in zip(shown, colors, masks, strict=True)
        for piece in (pieces_of(mask, step) if pieces else [thinned(mask, step)])
    ]
    return finished(canvas, labels, categories, names, legend)


def _painted(
    canvas: Canvas, regions: Sequence[TrueRegion], colors: Sequence[Color], opacity: float
) -> list[npt.NDArray[np.bool_]]:
    """Paints the regions, and returns their masks at the size of the canvas."""
    layers = np.zeros(canvas.original_size, dtype=np.int64)
    for region in regions:
        layers += region.mask
    if layers.max() > 1:
        masks = [canvas.enlarge_mask(region.mask) for region in regions]
        for place in sorted(range(len(masks)), key=lambda place: -int(masks[place].sum())):
            canvas.fill_mask(masks[place], colors[place], opacity)
        return masks
    # Regions that only touch are painted at once, so that smoothing leaves no gaps between them.
    numbers = np.zeros(canvas.original_size, dtype=np.int64)
    for place, region in enumerate(regions, start=1):
        numbers[region.mask] = place
    enlarged = canvas.enlarge_regions(numbers, len(regions) + 1)
    canvas.fill_regions(enlarged, [None, *colors], opacity)
    return [enlarged == place for place in range(1, len(regions) + 1)]


def contact_sheet(
    images: Sequence[Image.Image], captions: Sequence[str], *, columns: int | None = None
) -> Image.Image:
    """All images on one page, each at most 480 pixels wide and high, with its caption below.

    Args:
        images: at least one.
        captions: one per image; too long ones lose their beginning, as the ends of paths tell files apart.
        columns: None = about as many as rows.
    """
    columns = columns or math.ceil(math.sqrt(len(images)))
    tiles = [image.copy() for image in images]
    for tile in tiles:
        tile.thumbnail((_TILE, _TILE), Image.Resampling.LANCZOS)
    width = max(tile.width for tile in tiles)
    caption_height = round(1.6 * line_height(font_for("A", _LETTERS)))
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    heights = [max(tile.height for tile in row) + caption_height + _GAP for row in rows]
    size = (min(columns, len(tiles)) * (width + _GAP) + _GAP, sum(heights) + _GAP)
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    for place, (tile, caption) in enumerate(zip(tiles, captions, strict=True)):
        row, column = divmod(place, columns)
        left, top = _GAP + column * (width + _GAP), _GAP + sum(heights[:row])
        sheet.paste(tile, (left, top))
        text = _shortened(caption, width)
        draw.text((left, top + tile.height + 4), text, fill=INK, font=font_for(text, _LETTERS))
    return sheet


def _shortened(text: str, width: int) -> str:
    """The end of a text that fits into a width in pixels."""
    shown = text
    while len(shown) > 2 and text_width(shown, font_for(shown, _LETTERS)) > width:
        shown = "…" + shown[2:]
    return shown
