# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Fonts for labels: Pillow's own for plain text, the system's for accents and other scripts."""

from __future__ import annotations

from functools import lru_cache

from PIL import ImageFont

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


@lru_cache(maxsize=1024)
def font_for(text: str, size: int) -> Font:
    """A font of a size in pixels that has the letters of a text, or the built-in one if none has."""
    if not text.replace(ELLIPSIS, "").isascii():
        for name in _WIDE_FONTS:
            font = _system_font(name, size)
            if font is not None and _has_letters(font, text):
                return font
    return ImageFont.load_default(size)


def text_width(text: str, font: Font) -> float:
    """Width of a text in pixels."""
    left, _, right, _ = font.getbbox(text)
    return right - left


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
