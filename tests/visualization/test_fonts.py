# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import pytest
from PIL import ImageFont

from cmpf.visualization import fonts
from cmpf.visualization.fonts import font_for, line_height, text_width


@pytest.fixture(autouse=True)
def forget_fonts() -> None:
    font_for.cache_clear()
    fonts._system_font.cache_clear()


def test_wider_text_and_larger_letters_take_more_room() -> None:
    font, large = font_for("cat", 12), font_for("cat", 24)
    assert text_width("cat and dog", font) > text_width("cat", font) > 0
    assert line_height(large) > 1.5 * line_height(font)


def test_plain_text_never_asks_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("asked for a system font")

    monkeypatch.setattr(fonts, "_system_font", refuse)
    assert text_width("striped star 93%…", font_for("striped star 93%…", 13)) > 0


def test_a_script_without_any_font_falls_back_to_the_built_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_WIDE_FONTS", ("no such font.ttf",))
    assert text_width("猫", font_for("猫", 14)) > 0


def test_a_font_without_the_letters_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    real = ImageFont.load_default(14)

    def found(name: str, size: int) -> object:
        asked.append(name)
        return real

    monkeypatch.setattr(fonts, "_system_font", found)
    font_for("кот", 14)  # the built-in font has no Cyrillic, so each name is tried
    assert asked == list(fonts._WIDE_FONTS)
