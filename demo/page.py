# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Writes the demo's HTML page and the figure of the README."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template

from PIL import Image, ImageDraw, ImageFont

from cmpf.common.files import replacing
from cmpf.formats.image import write_image

FIGURE_CELL = 400  # pixels
TEMPLATE = Path(__file__).with_name("page_template.html")
VIEWS = (
    ("input", "input"),
    ("decoder", "panoptic, the decoder alone"),
    ("panoptic", "panoptic, with SAM's masks"),
    ("semantic", "semantic"),
    ("instance", "instances"),
)


@dataclass(frozen=True)
class Example:
    """A segmented image.

    name: prefix of its files.
    words: its vocabulary.
    unseen: the words that are not in the training vocabulary.
    size: (H, W).
    """

    name: str
    words: Sequence[str]
    unseen: frozenset[str]
    size: tuple[int, int]


def write_page(
    path: Path,
    *,
    lead: str,
    tiles: Iterable[tuple[str, str]],
    examples: Sequence[Example],
    photographs: Sequence[Example],
    evaluation_text: str,
    metrics: Mapping[str, Mapping[str, float]],
    curve: str,
    commands: str,
    footer: str,
) -> None:
    """Writes the page.

    Args:
        path: the page.
        tiles: (value, meaning) of the numbers at the top.
        examples, photographs: each has an image `images/<name>_<view>.png` next to the page for each of VIEWS.
        metrics: row -> column -> percent.
        curve: an SVG element.
    """
    text = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        lead=escape(lead),
        tiles="".join(
            f'<div class="tile"><b>{escape(value)}</b><span>{escape(meaning)}</span></div>'
            for value, meaning in tiles
        ),
        examples="".join(_example(example) for example in examples),
        photographs="".join(_example(example) for example in photographs),
        evaluation_text=escape(evaluation_text),
        metrics=_table(metrics),
        curve=curve,
        commands=escape(commands),
        footer=escape(footer),
    )
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_figure(
    path: Path, images: Path, examples: Sequence[Example], views: Sequence[tuple[str, str]]
) -> None:
    """Writes a PNG with a row per example and a titled column per view: the figure of the README.

    Args:
        path: the PNG.
        images: folder of `<name>_<view>.png`.
        views: (view, title) of each column.
    """
    side, gap, head = FIGURE_CELL, 8, 34
    width, height = len(views) * (side + gap) - gap, head + len(examples) * (side + gap) - gap
    sheet = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(18)
    for column, (view, title) in enumerate(views):
        left = column * (side + gap)
        draw.text((left + side / 2, head / 2), title, fill="#1c2430", font=font, anchor="mm")
        for row, example in enumerate(examples):
            with Image.open(images / f"{example.name}_{view}.png") as image:
                cell = image.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
            sheet.paste(cell, (left, head + row * (side + gap)))
    write_image(path, sheet.quantize(256), optimize=True)  # a third of the size


def _example(example: Example) -> str:
    figures = "".join(
        f'<figure><img src="images/{escape(example.name)}_{view}.png" alt="{escape(example.name)}, {escape(title)}">'
        f"<figcaption>{escape(title)}</figcaption></figure>"
        for view, title in VIEWS
    )
    words = "".join(
        f'<span class="word{" unseen" if word in example.unseen else ""}">{escape(word)}</span>'
        for word in example.words
    )
    height, width = example.size
    return (
        f'<div class="card"><div class="row">{figures}</div><div class="words">{words}</div>'
        f"<figcaption>{escape(example.name)}, {width} x {height} pixels</figcaption></div>"
    )


def _table(metrics: Mapping[str, Mapping[str, float]]) -> str:
    columns = list(next(iter(metrics.values())))
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    rows = "".join(
        f"<tr><td>{escape(name)}</td>" + "".join(f"<td>{_number(values[column])}</td>" for column in columns)
        + "</tr>"
        for name, values in metrics.items()
    )  # fmt: skip
    return f"<table><tr><th></th>{head}</tr>{rows}</table>"


def _number(value: float) -> str:
    return "–" if value != value else f"{value:.1f}"
