# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import math
from html.parser import HTMLParser
from pathlib import Path

from demo.page import VIEWS, Example, write_page

EXAMPLE = Example(
    name="a_1", words=["red circle", "<b>sky</b>"], unseen=frozenset(["<b>sky</b>"]), size=(20, 30)
)


class Reader(HTMLParser):
    """Collects images and text, and checks that every element is closed in order."""

    VOID = ("meta", "img", "br")

    def __init__(self) -> None:
        super().__init__()
        self.images: list[str] = []
        self.text: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.images.append(dict(attrs)["src"] or "")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def page(tmp_path: Path) -> Reader:
    path = tmp_path / "index.html"
    write_page(
        path,
        lead="A & B",
        tiles=[("57.1", "PQ")],
        examples=[EXAMPLE],
        photographs=[EXAMPLE],
        evaluation_text="text",
        metrics={"seen": {"PQ": 57.123, "AP": math.nan}},
        curve="<svg></svg>",
        commands='make demo WORDS="a; b"',
        footer="end",
    )
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    assert reader.open == []
    return reader


def test_every_example_shows_all_views(tmp_path: Path) -> None:
    assert page(tmp_path).images == [f"images/a_1_{view}.png" for view, _ in VIEWS] * 2


def test_words_are_text_not_markup(tmp_path: Path) -> None:
    assert "<b>sky</b>" in page(tmp_path).text


def test_numbers_have_one_decimal_and_undefined_ones_a_dash(tmp_path: Path) -> None:
    text = page(tmp_path).text
    assert "57.1" in text
    assert "–" in text


def test_nothing_is_left_to_fill_in(tmp_path: Path) -> None:
    page(tmp_path)
    assert "$" not in (tmp_path / "index.html").read_text(encoding="utf-8")
