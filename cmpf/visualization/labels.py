# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Draws labels and the legend, and finds fonts for them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from cmpf.visualization.palette import Color, mix
from cmpf.visualization.placement import Point, Rect, place_labels

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
# Pillow's built-in font has little more than ASCII. Pillow finds these fonts by name if they are installed.
_UNICODE_FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "Arial.ttf",
    "NotoSansCJK-Regular.ttc",
    "wqy-microhei.ttc",
    "Arial Unicode.ttf",
    "msyh.ttc",
)
ELLIPSIS = "…"
_NO_CHARACTER = "\uffff"  # fonts draw their glyph for missing characters
Mask = npt.NDArray[np.bool_]
_SUPERSAMPLE = 4  # for anti-aliasing of round corners
_MAX_LENGTH = 28  # characters of a label; longer ones end in an ellipsis
INK = (32, 33, 40)
_WHITE, _DARK = (255, 255, 255), (14, 14, 20)


@lru_cache(maxsize=1024)
def font_for(text: str, size: int) -> Font:
    """A font of a size in pixels with all characters of a text; the built-in font if there is none."""
    if not text.replace(ELLIPSIS, "").isascii():
        for name in _UNICODE_FONTS:
            font = _system_font(name, size)
            if font is not None and _has_glyphs(font, text):
                return font
    return ImageFont.load_default(size)


@lru_cache(maxsize=1024)
def text_width(text: str, font: Font) -> float:
    """Width of a text in pixels."""
    left, _, right, _ = font.getbbox(text)
    return right - left


@lru_cache(maxsize=64)
def line_height(font: Font) -> float:
    """Height of a line in pixels, from the top of "A" to the bottom of "g"."""
    _, top, _, bottom = font.getbbox("Ag")
    return bottom - top


@lru_cache(maxsize=64)
def _system_font(name: str, size: int) -> ImageFont.FreeTypeFont | None:
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None


def _has_glyphs(font: ImageFont.FreeTypeFont, text: str) -> bool:
    missing = bytes(font.getmask(_NO_CHARACTER))
    return all(character.isspace() or bytes(font.getmask(character)) != missing for character in text)


@dataclass(frozen=True)
class Label:
    """The label of a region.

    color: of the region.
    mask: of the region on the image, subsampled by `grid_step`.
    """

    text: str
    color: Color
    mask: Mask


@dataclass(frozen=True)
class _Tag:
    """A text with its font, and the size (width, height) of its box in pixels."""

    text: str
    font: Font
    size: tuple[float, float]


def font_size(canvas: tuple[int, int]) -> int:
    """Font size of labels in pixels for a canvas (H, W): 20 at 640 x 640, 27 at 1280 x 1024.

    It grows more slowly than the image, because large images have more segments and are viewed enlarged.
    """
    return max(11, round(0.8 * math.sqrt(math.sqrt(canvas[0] * canvas[1]))))


def tag_color(color: Color) -> Color:
    """A dark shade of a class color, as the background of white text."""
    return mix(color, _DARK, 0.78)


def draw_labels(image: Image.Image, labels: Sequence[Label]) -> None:
    """Draws the labels for which there is room on an RGB image; larger regions first."""
    size = image.height, image.width
    ordered = sorted(labels, key=lambda label: -int(np.count_nonzero(label.mask)))
    tags = [_tag(label.text, font_size(size)) for label in ordered]
    placements = place_labels([label.mask for label in ordered], [tag.size for tag in tags], size)
    placed = [
        (label, tag, placement)
        for label, tag, placement in zip(ordered, tags, placements, strict=True)
        if placement is not None
    ]
    for label, _, placement in placed:  # lines first, so that no line crosses a label
        if placement.leader is not None:
            _draw_leader(image, label.color, placement.rect, placement.leader)
    for label, tag, placement in placed:
        _draw_tag(image, tag, label.color, placement.rect)


def add_legend(image: Image.Image, entries: Sequence[tuple[str, Color]]) -> Image.Image:
    """Adds rows of color chips with class names below the image, on white.

    Args:
        image: RGB.
        entries: name and color of each class.
    """
    size = font_size((image.height, image.width))
    pad, gap, chip = round(0.8 * size), round(0.5 * size), round(0.95 * size)
    tags = [(_tag(name, size), color) for name, color in entries]
    if not tags:
        return image
    width = max(image.width, *(round(tag.size[0]) + chip + gap + 2 * pad for tag, _ in tags))
    row_height = round(1.7 * size)
    cells, x, row = [], pad, 0
    for tag, color in tags:
        extent = chip + gap + round(tag.size[0])
        if x > pad and x + extent > width - pad:
            x, row = pad, row + 1
        cells.append((x, image.height + pad + row * row_height, tag, color))
        x += extent + pad
    height = image.height + 2 * pad + (row + 1) * row_height
    sheet = Image.new("RGB", (width, height), _WHITE)
    sheet.paste(image, ((width - image.width) // 2, 0))
    for left, top, tag, color in cells:
        middle = top + row_height / 2
        _fill_rounded(sheet, (left, middle - chip / 2, left + chip, middle + chip / 2), 0.22 * chip, color)
        ImageDraw.Draw(sheet).text((left + chip + gap, middle), tag.text, INK, tag.font, anchor="lm")
    return sheet


def _tag(name: str, size: int) -> _Tag:
    name = " ".join(name.split())
    text = name if len(name) <= _MAX_LENGTH else name[: _MAX_LENGTH - 1].rstrip() + ELLIPSIS
    font = font_for(text, size)
    # The line height of the built-in font, so that all boxes of an image have the same height.
    height = line_height(font_for("", size)) + 0.55 * size
    return _Tag(text, font, (text_width(text, font) + 0.9 * size, height))


def _draw_leader(image: Image.Image, color: Color, rect: Rect, end: Point) -> None:
    x0, y0, x1, y1 = rect
    start = ((x0 + x1) / 2, (y0 + y1) / 2)
    dot = max(2.0, 0.1 * (y1 - y0))
    draw = ImageDraw.Draw(image)
    draw.line([start, end], fill=_DARK, width=max(3, round(1.6 * dot)))
    draw.line([start, end], fill=mix(color, _WHITE, 0.4), width=max(1, round(0.7 * dot)))
    box = (end[0] - dot, end[1] - dot, end[0] + dot, end[1] + dot)
    draw.ellipse(box, fill=mix(color, _WHITE, 0.4), outline=_DARK)


def _draw_tag(image: Image.Image, tag: _Tag, color: Color, rect: Rect) -> None:
    x0, y0, x1, y1 = (round(value) for value in rect)
    radius, rim = 0.3 * (y1 - y0), max(1, round(0.06 * (y1 - y0)))
    _fill_rounded(image, (x0 - rim, y0 - rim, x1 + rim, y1 + rim), radius + rim, mix(color, _WHITE, 0.25))
    _fill_rounded(image, (x0, y0, x1, y1), radius, tag_color(color))
    padding = y1 - y0  # some characters extend beyond the box
    mask = _text_mask(tag.text, tag.font, (x1 - x0, y1 - y0), padding)
    image.paste(_WHITE, (x0 - padding, y0 - padding), mask)


def _fill_rounded(image: Image.Image, rect: Rect, radius: float, color: Color) -> None:
    """Fills a rectangle with round, anti-aliased corners."""
    x0, y0, x1, y1 = (round(value) for value in rect)
    image.paste(color, (x0, y0), _rounded_mask((x1 - x0, y1 - y0), radius))


# Cached, because the images of a run have the same class names.
@lru_cache(maxsize=256)
def _text_mask(text: str, font: Font, size: tuple[int, int], padding: int) -> Image.Image:
    """Coverage of each pixel by a text that is centered in a box (width, height) with padding on all sides."""
    mask = Image.new("L", (size[0] + 2 * padding, size[1] + 2 * padding), 0)
    ImageDraw.Draw(mask).text((mask.width / 2, mask.height / 2), text, 255, font, anchor="mm")
    return mask


@lru_cache(maxsize=256)
def _rounded_mask(size: tuple[int, int], radius: float) -> Image.Image:
    """Coverage of each pixel of a box (width, height) by the box with round corners."""
    large = Image.new("L", (size[0] * _SUPERSAMPLE, size[1] * _SUPERSAMPLE), 0)
    ImageDraw.Draw(large).rounded_rectangle(
        (0, 0, large.width - 1, large.height - 1), radius=radius * _SUPERSAMPLE, fill=255
    )
    return large.resize(size, Image.Resampling.BOX)
