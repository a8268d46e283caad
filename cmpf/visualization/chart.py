# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Draws training curves as SVG that can be embedded in a page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from itertools import accumulate

from cmpf.visualization.palette import oklch_to_rgb

_FONT = "font-family='system-ui, sans-serif'"
_MARGIN_LEFT, _MARGIN_RIGHT, _MARGIN_TOP, _MARGIN_BOTTOM = 52, 140, 16, 40
_SMOOTHING_SHARE = 0.04  # window of the running mean, as a share of all rows
_MAX_POINTS = 600  # of a line; more would not be visible

Series = tuple[str, list[float], list[float]]  # name, iterations, values


def training_curve(
    metrics: Sequence[Mapping[str, object]],
    size: tuple[int, int] = (360, 760),
    *,
    keys: Sequence[str] = ("loss_ce", "loss_mask", "loss_dice"),
) -> str:
    """Draws losses over iterations: a thin line of the values and a bold line of their running mean.

    Text has the color of the page (currentColor), so that it is legible on light and dark pages.

    Args:
        metrics: rows of metrics.json, each with "iteration" and some of the keys.
        size: (height, width) in CSS pixels; the chart shrinks with its container.
        keys: metrics to draw; those without values are left out.
    Returns:
        An <svg> element.
    """
    height, width = size
    series = [values for key in keys if (values := _series(metrics, key))[1]]
    head = (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' width='100%' "
        f"style='max-width:{width}px' role='img' aria-label='Training losses over iterations' {_FONT} "
        "font-size='12' fill='currentColor'>"
    )
    if not series:
        return f"{head}<text x='{width / 2}' y='{height / 2}' text-anchor='middle'>no losses yet</text></svg>"
    plot = _Plot(series, width, height)
    return "".join([head, plot.axes(), *plot.lines(), "</svg>"])


def _series(metrics: Sequence[Mapping[str, object]], key: str) -> Series:
    """The finite values of a key, sorted by iteration."""
    points = []
    for row in metrics:
        iteration, value = row.get("iteration"), row.get(key)
        numbers = isinstance(iteration, int | float) and isinstance(value, int | float)
        if numbers and math.isfinite(float(value)):  # type: ignore[arg-type]
            points.append((float(iteration), float(value)))  # type: ignore[arg-type]
    points.sort()
    return key, [x for x, _ in points], [y for _, y in points]


class _Plot:
    """Maps values to pixels, and draws the parts of the chart."""

    def __init__(self, series: Sequence[Series], width: int, height: int) -> None:
        self.series, self.width, self.height = series, width, height
        xs = [x for _, iterations, _ in series for x in iterations]
        # Clip the highest 1 %: the losses of the first iterations are often far above the rest.
        ys = sorted(y for _, _, values in series for y in values)
        self.y_ticks = _ticks(0.0, max(ys[min(len(ys) - 1, math.ceil(0.99 * len(ys)))], 1e-6), 5)
        self.x_ticks = _ticks(min(xs), max(xs), 6) if max(xs) > min(xs) else [xs[0]]
        self.x_range = (min(xs), max(max(xs), min(xs) + 1))
        self.y_top = self.y_ticks[-1]

    def x(self, value: float) -> float:
        low, high = self.x_range
        span = self.width - _MARGIN_LEFT - _MARGIN_RIGHT
        return _MARGIN_LEFT + span * (value - low) / (high - low)

    def y(self, value: float) -> float:
        span = self.height - _MARGIN_TOP - _MARGIN_BOTTOM
        return _MARGIN_TOP + span * (1 - min(max(value / self.y_top, 0.0), 1.0))

    def axes(self) -> str:
        """Horizontal grid lines with values, iterations, and the axis title."""
        right, bottom = self.width - _MARGIN_RIGHT, self.height - _MARGIN_BOTTOM
        parts = []
        for value in self.y_ticks:
            y, strength = self.y(value), 0.5 if value == 0 else 0.15
            line = f"stroke='currentColor' stroke-opacity='{strength}'"
            parts.append(
                f"<path d='M{_MARGIN_LEFT} {y:.1f}H{right}' {line}/>"
                f"<text x='{_MARGIN_LEFT - 8}' y='{y + 4:.1f}' text-anchor='end'>{value:g}</text>"
            )
        inside = [v for v in self.x_ticks if self.x_range[0] <= v <= self.x_range[1]]
        for value in inside:
            parts.append(
                f"<text x='{self.x(value):.1f}' y='{bottom + 18}' text-anchor='middle'>{value:,.0f}</text>"
            )
        middle = (_MARGIN_LEFT + right) / 2
        parts.append(
            f"<text x='{middle}' y='{self.height - 4}' text-anchor='middle' opacity='0.7'>iteration</text>"
        )
        return "".join(parts)

    def lines(self) -> list[str]:
        """The curves, and the name of each at its end; names are moved apart where they would overlap."""
        parts = []
        ends: list[tuple[float, str, str]] = []
        for number, (name, xs, ys) in enumerate(self.series):
            # Medium lightness, which is visible on light and dark pages.
            color = "#{:02x}{:02x}{:02x}".format(*oklch_to_rgb((0.63, 0.17, 255 + 137.5 * number)))
            smooth = _running_mean(ys)
            if len(xs) > 1:
                parts.append(self._path(xs, ys, f"stroke='{color}' stroke-opacity='0.3' stroke-width='1'"))
                parts.append(self._path(xs, smooth, f"stroke='{color}' stroke-width='2.2'"))
            parts.append(
                f"<circle cx='{self.x(xs[-1]):.1f}' cy='{self.y(smooth[-1]):.1f}' r='3' fill='{color}'/>"
            )
            ends.append((self.y(smooth[-1]), f"{name} {smooth[-1]:.3g}", color))
        left, last = self.width - _MARGIN_RIGHT + 8, -math.inf
        for y, text, color in sorted(ends):
            last = max(y, last + 16)
            parts.append(
                f"<rect x='{left}' y='{last - 5:.1f}' width='10' height='10' rx='2' fill='{color}'/>"
                f"<text x='{left + 14}' y='{last + 4:.1f}'>{escape(text)}</text>"
            )
        return parts

    def _path(self, xs: Sequence[float], ys: Sequence[float], style: str) -> str:
        every = max(1, len(xs) // _MAX_POINTS)
        kept = [*range(0, len(xs) - 1, every), len(xs) - 1]
        points = "L".join(f"{self.x(xs[i]):.1f} {self.y(ys[i]):.1f}" for i in kept)
        return f"<path d='M{points}' fill='none' stroke-linejoin='round' {style}/>"


def _running_mean(values: Sequence[float]) -> list[float]:
    """Mean over a centered window, which is shorter at both ends."""
    half = round(_SMOOTHING_SHARE * len(values) / 2)
    sums = list(accumulate(values, initial=0.0))
    ends = [(max(0, i - half), min(len(values), i + half + 1)) for i in range(len(values))]
    return [(sums[stop] - sums[start]) / (stop - start) for start, stop in ends]


def _ticks(low: float, high: float, about: int) -> list[float]:
    """About `about` round numbers that cover [low, high]."""
    rough = (high - low) / about
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(magnitude * factor for factor in (1, 2, 5, 10) if magnitude * factor >= rough * 0.999)
    first, last = math.floor(low / step), math.ceil(high / step - 1e-9)
    return [round(step * i, 10) for i in range(first, last + 1)]
