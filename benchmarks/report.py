# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Reports results as a Markdown table, JSON and charts, with a description of the machine."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw

from benchmarks.harness import Measurement
from cmpf.common.files import replacing
from cmpf.engine.logs import processor_name
from cmpf.visualization.labels import font_for, text_width
from cmpf.visualization.palette import oklch_to_rgb

MEMORY = {
    "cpu": "torch's CPU allocator (profiler); NumPy, Pillow and scratch memory inside libraries are not counted",
    "cuda": "torch.cuda.max_memory_allocated",
}
HEADERS = ("case", "CMPF", "published", "speedup", "quartiles", "CMPF MB", "published MB", "difference")


def environment(device: torch.device) -> dict[str, Any]:
    """Machine, versions, and how memory is measured."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "memory": MEMORY.get(device.type, "not measured"),
    }


def table(results: Mapping[str, Measurement | str]) -> str:
    """A Markdown table; cases that could not be measured show the reason."""
    rows = [HEADERS, *(_row(name, result) for name, result in results.items())]
    numbers = [row for row in rows if len(row) == len(HEADERS)]
    widths = [max(len(row[column]) for row in numbers) for column in range(len(HEADERS))]
    widths[0] = max(len(row[0]) for row in rows)
    lines = []
    for row in rows:
        if len(row) < len(HEADERS):
            lines.append(f"| {row[0]:<{widths[0]}} | {row[1]} |" + " |" * (len(HEADERS) - 2))
            continue
        cells = [f"{row[0]:<{widths[0]}}", *(f"{v:>{w}}" for v, w in zip(row[1:], widths[1:], strict=True))]
        lines.append("| " + " | ".join(cells) + " |")
    rule = "|" + "|".join(["---"] + ["---:"] * (len(HEADERS) - 1)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def write_json(
    path: Path, results: Mapping[str, Measurement | str], *, device: torch.device, quick: bool
) -> None:
    """Writes all measurements atomically; times in seconds, memory in bytes."""
    cases = {
        name: {"failed": result} if isinstance(result, str) else asdict(result)
        for name, result in results.items()
    }
    content = {"environment": environment(device), "quick": quick, "cases": cases}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _row(name: str, result: Measurement | str) -> tuple[str, ...]:
    if isinstance(result, str):
        return name, result
    return (
        name,
        seconds(result.ours.median),
        seconds(result.published.median),
        f"{result.ratio.median:.2f}",
        f"{result.ratio.low:.2f} to {result.ratio.high:.2f}",
        f"{result.ours_memory / 1e6:,.1f}",
        f"{result.published_memory / 1e6:,.1f}",
        f"{result.difference:.0e}",
    )


def seconds(value: float) -> str:
    """A time with three significant digits: "12.3 ms", "1.23 s"."""
    return f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms"


COLUMNS = 2  # panels per row
HEIGHT, WIDTH = 340, 460  # of one panel, in pixels
LEFT, RIGHT, TOP, BOTTOM = 74, 20, 40, 46
INK, GRID = (40, 40, 48), (222, 222, 228)
FONT = 14

Points = Sequence[tuple[float, float]]


def draw_panels(path: Path, panels: Mapping[str, Mapping[str, Points]]) -> None:
    """Draws line charts with logarithmic axes to a PNG.

    Args:
        path: the file.
        panels: {title: {name of a line: points (x, seconds)}}; at least two points per line, all above 0.
    """
    rows = -(-len(panels) // COLUMNS)
    image = Image.new("RGB", (COLUMNS * WIDTH, rows * HEIGHT), (255, 255, 255))
    for index, (title, lines) in enumerate(panels.items()):
        panel = Image.new("RGB", (WIDTH, HEIGHT), (255, 255, 255))
        _draw(ImageDraw.Draw(panel), title, lines)
        image.paste(panel, (index % COLUMNS * WIDTH, index // COLUMNS * HEIGHT))
    image.save(path)


def exponent(points: Points) -> float:
    """Exponent of the power law that fits the points: the least-squares slope of their logarithms."""
    xs, ys = ([math.log(value) for value in values] for values in zip(*points, strict=True))
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    covariance = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True))
    return covariance / sum((x - mean_x) ** 2 for x in xs)


def _draw(draw: ImageDraw.ImageDraw, title: str, lines: Mapping[str, Points]) -> None:
    points = [point for line in lines.values() for point in line]
    across = _scale([x for x, _ in points], LEFT, WIDTH - RIGHT)
    up = _scale([y for _, y in points], HEIGHT - BOTTOM, TOP + 20 * len(lines))
    _text(draw, (LEFT, 12), title, anchor="lt")
    for x in sorted({x for x, _ in points}):
        draw.line([(across(x), TOP), (across(x), HEIGHT - BOTTOM)], fill=GRID)
        _text(draw, (across(x), HEIGHT - BOTTOM + 8), _short(x), anchor="mt")
    for y in _decades([y for _, y in points]):
        draw.line([(LEFT, up(y)), (WIDTH - RIGHT, up(y))], fill=GRID)
        _text(draw, (LEFT - 8, up(y)), seconds(y), anchor="rm")
    for number, (name, line) in enumerate(lines.items()):
        color = oklch_to_rgb((0.58, 0.17, 255 + 137.5 * number))
        places = [(across(x), up(y)) for x, y in sorted(line)]
        draw.line(places, fill=color, width=3, joint="curve")
        for x, y in places:
            draw.ellipse([x - 4, y - 4, x + 4, y + 4], fill=color)
        label = f"{name}: power {exponent(line):.2f}"
        _text(draw, (LEFT + 6, TOP + 18 * number), label, anchor="lt", color=color)


def _scale(values: Sequence[float], first: float, last: float) -> Callable[[float], float]:
    low, high = math.log(min(values)), math.log(max(values))
    span = max(high - low, 1e-9)
    return lambda value: first + (last - first) * (math.log(value) - low) / span


def _decades(values: Sequence[float]) -> list[float]:
    """Grid lines: 1, 2 and 5 times powers of ten between the smallest and the largest value."""
    low, high = min(values), max(values)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [m * 10.0**p for p in powers for m in (1, 2, 5) if low <= m * 10.0**p <= high]


def _short(value: float) -> str:
    return (
        f"{value / 1e6:.3g} M" if value >= 1e6 else f"{value / 1e3:.3g} k" if value >= 1e4 else f"{value:g}"
    )


def _text(
    draw: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    *,
    anchor: str,
    color: tuple[int, int, int] = INK,
) -> None:
    """Draws text at a point. anchor: "l", "m" or "r" for its horizontal, "t" or "m" for its vertical alignment."""
    font = font_for(text, FONT)
    x = place[0] - {"l": 0.0, "m": 0.5, "r": 1.0}[anchor[0]] * text_width(text, font)
    y = place[1] - (FONT / 2 if anchor[1] == "m" else 0)
    draw.text((x, y), text, fill=color, font=font)
