# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Labels beside their regions, the legend, and the fonts that they are written in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from cmpf.visualization.palette import Color, mix
from cmpf.visualization.placement import LabelRequest, Point, Rect, place_labels

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
# Pillow's built-in font has hardly more than ASCII; Pillow finds these usual ones by name where installed.
_WIDE_FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "Arial.ttf",
    "NotoSansCJK-Regular.ttc",
    "wqy-microhei.ttc",
    "Arial Unicode.ttf",
    "msyh.ttc",
)
ELLIPSIS = "…"
_NO_LETTER = "\uffff"  # never a character; fonts draw their box for missing letters
Mask = npt.NDArray[np.bool_]
_SUPERSAMPLE = 4  # for round corners and slanted leader lines without stairs
_LONGEST_NAME = 28  # letters; longer ones end in an ellipsis
INK = (32, 33, 40)
_PAPER, _DARK = (255, 255, 255), (14, 14, 20)


@lru_cache(maxsize=1024)
def font_for(text: str, size: int) -> Font:
    """A font of a size in pixels that has the letters of a text, or the built-in one if none has."""
    if not text.replace(ELLIPSIS, "").isascii():
        for name in _WIDE_FONTS:
            font = _system_font(name, size)
            if font is not None and _has_letters(font, text):
                return font
    return ImageFont.load_default(size)


@lru_cache(maxsize=1024)
def text_width(text: str, font: Font) -> float:
    """Width of a text in pixels."""
    left, _, right, _ = font.getbbox(text)
    return right - left


@lru_cache(maxsize=64)
def line_height(font: Font) -> float:
    """Height of a line in pixels, from the top of "A" to the foot of "g"."""
    _, top, _, bottom = font.getbbox("Ag")
    return bottom - top


@lru_cache(maxsize=64)
def _system_font(name: str, size: int) -> ImageFont.FreeTypeFont | None:
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None


def _has_letters(font: ImageFont.FreeTypeFont, text: str) -> bool:
    missing = bytes(font.getmask(_NO_LETTER))
    return all(letter.isspace() or bytes(font.getmask(letter)) != missing for letter in text)


@dataclass(frozen=True)
class Label:
    """Text for a region (H, W) of the canvas, in the region's color. step: see LabelRequest."""

    text: str
    color: Color
    mask: Mask
    step: int = 1


@dataclass(frozen=True)
class _Tag:
    """A label's text with its font and the size (width, height) of its box in pixels."""

    text: str
    font: Font
    size: tuple[float, float]


def font_size(canvas: tuple[int, int]) -> int:
    """Height of label letters in pixels for a canvas (H, W): 20 at 640 x 640, 27 at 1280 x 1024.

    It grows more slowly than the image, because large images hold more segments and are seen from near.
    """
    return max(11, round(0.8 * math.sqrt(math.sqrt(canvas[0] * canvas[1]))))


def tag_color(color: Color) -> Color:
    """A dark tone of a class's color, on which white letters stand out."""
    return mix(color, _DARK, 0.78)


def draw_labels(image: Image.Image, labels: Sequence[Label], *, copy: bool = True) -> Image.Image:
    """The image with as many labels as find a place; larger regions first.

    Args:
        image: RGB.
        labels: masks at the image's size, or thinned by their step.
        copy: whether the image that is given stays as it is.
    """
    ordered = sorted(labels, key=lambda label: -(label.step**2) * int(np.count_nonzero(label.mask)))
    tags = [_tag(label.text, font_size((image.height, image.width))) for label in ordered]
    requests = [
        LabelRequest(label.mask, tag.size, label.step) for label, tag in zip(ordered, tags, strict=True)
    ]
    placed = place_labels(requests, (image.height, image.width))
    result = image.copy() if copy else image
    found = [(label, tag, place) for label, tag, place in zip(ordered, tags, placed, strict=True) if place]
    for label, _, place in found:  # lines first, so that no line crosses a label
        if place.leader is not None:
            _draw_leader(result, label.color, place.rect, place.leader)
    for label, tag, place in found:
        _draw_tag(result, tag, label.color, place.rect)
    return result


def add_legend(image: Image.Image, entries: Sequence[tuple[str, Color]]) -> Image.Image:
    """The image on white paper with a row (or rows) of color chips and names below it.

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
    sheet = Image.new("RGB", (width, height), _PAPER)
    sheet.paste(image, ((width - image.width) // 2, 0))
    for left, top, tag, color in cells:
        middle = top + row_height / 2
        _rounded(sheet, (left, middle - chip / 2, left + chip, middle + chip / 2), 0.22 * chip, color)
        ImageDraw.Draw(sheet).text((left + chip + gap, middle), tag.text, INK, tag.font, anchor="lm")
    return sheet


def _tag(name: str, size: int) -> _Tag:
    name = " ".join(name.split())
    text = name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1].rstrip() + ELLIPSIS
    font = font_for(text, size)
    # The line of the built-in font, so that all boxes of an image are of one height.
    height = line_height(font_for("", size)) + 0.55 * size
    return _Tag(text, font, (text_width(text, font) + 0.9 * size, height))


def _draw_leader(image: Image.Image, color: Color, rect: Rect, end: Point) -> None:
    x0, y0, x1, y1 = rect
    start = ((x0 + x1) / 2, (y0 + y1) / 2)
    dot = max(2.0, 0.1 * (y1 - y0))
    draw = ImageDraw.Draw(image)
    draw.line([start, end], fill=_DARK, width=max(3, round(1.6 * dot)))
    draw.line([start, end], fill=mix(color, _PAPER, 0.4), width=max(1, round(0.7 * dot)))
    box = (end[0] - dot, end[1] - dot, end[0] + dot, end[1] + dot)
    draw.ellipse(box, fill=mix(color, _PAPER, 0.4), outline=_DARK)


def _draw_tag(image: Image.Image, tag: _Tag, color: Color, rect: Rect) -> None:
    x0, y0, x1, y1 = (round(value) for value in rect)
    radius, rim = 0.3 * (y1 - y0), max(1, round(0.06 * (y1 - y0)))
    _rounded(image, (x0 - rim, y0 - rim, x1 + rim, y1 + rim), radius + rim, mix(color, _PAPER, 0.25))
    _rounded(image, (x0, y0, x1, y1), radius, tag_color(color))
    beyond = y1 - y0  # some letters reach over the box
    image.paste(_PAPER, (x0 - beyond, y0 - beyond), _written(tag.text, tag.font, (x1 - x0, y1 - y0), beyond))


def _rounded(image: Image.Image, rect: Rect, radius: float, color: Color) -> None:
    """A filled rectangle with round corners; pixels at its edge are mixed."""
    x0, y0, x1, y1 = (round(value) for value in rect)
    image.paste(color, (x0, y0), _corners((x1 - x0, y1 - y0), radius))


# The same names come in one image after the other.
@lru_cache(maxsize=256)
def _written(text: str, font: Font, size: tuple[int, int], beyond: int) -> Image.Image:
    """How much of each pixel of a box (width, height), and of some pixels around it, a text in its middle covers."""
    ink = Image.new("L", (size[0] + 2 * beyond, size[1] + 2 * beyond), 0)
    ImageDraw.Draw(ink).text((ink.width / 2, ink.height / 2), text, 255, font, anchor="mm")
    return ink


@lru_cache(maxsize=256)
def _corners(size: tuple[int, int], radius: float) -> Image.Image:
    """How much of each pixel of a box (width, height) lies inside its round corners."""
    large = Image.new("L", (size[0] * _SUPERSAMPLE, size[1] * _SUPERSAMPLE), 0)
    ImageDraw.Draw(large).rounded_rectangle(
        (0, 0, large.width - 1, large.height - 1), radius=radius * _SUPERSAMPLE, fill=255
    )
    return large.resize(size, Image.Resampling.BOX)
