# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Cost by number of pixels, queries, classes and batch size: `python -m benchmarks.scaling --output FOLDER`.

Measures the trained part on CLIP's maps and semantic labels, without the frozen encoders, whose cost depends only on
the number of pixels.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import timed
from benchmarks.published.network import decode, with_published_attention
from benchmarks.published.postprocess import Sizes, restore, semantic
from benchmarks.report import draw_panels, environment, exponent
from benchmarks.setting import Setting, vocabulary_of
from cmpf.common.cpu import keep_freed_memory
from cmpf.common.files import replacing
from cmpf.inference import MaskRows, semantic_labels
from cmpf.modeling.pixel_decoder import PixelDecoder
from cmpf.modeling.transformer_decoder import TransformerDecoder

CHANNELS = {"res2": 192, "res3": 384, "res4": 768, "res5": 1536}  # ConvNeXt-L
QUICK_CHANNELS = {"res2": 8, "res3": 16, "res4": 32, "res5": 64}
EMBED_DIM = 768
ROUNDS = 3


@dataclass(frozen=True)
class Point:
    """Sizes of a measurement; `side` is that of the square image, in pixels."""

    side: int
    queries: int
    classes: int
    batch: int


FULL = Point(side=512, queries=100, classes=150, batch=1)
QUICK = Point(side=128, queries=20, classes=20, batch=1)
AXES: dict[str, tuple[str, tuple[float, ...]]] = {
    "pixels": ("side", (0.5, 0.75, 1, 1.5)),
    "queries": ("queries", (0.5, 1, 2, 4)),
    "classes": ("classes", (0.5, 1, 3, 8)),
    "batch": ("batch", (1, 2, 4)),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Writes scaling.png and scaling.json, and prints the exponents."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument(
        "--output", type=Path, default=Path("output/scaling"), help="output folder [output/scaling]"
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="[cpu]")
    parser.add_argument("--quick", action="store_true", help="small sizes, to test that everything runs")
    arguments = parser.parse_args(argv)
    keep_freed_memory()  # as CMPF's commands do; it speeds up both formulations
    setting = Setting(torch.device(arguments.device), arguments.quick)
    lines = measure_axes(setting)
    arguments.output.mkdir(parents=True, exist_ok=True)
    draw_panels(
        arguments.output / "scaling.png", {f"seconds by {axis}": by_name for axis, by_name in lines.items()}
    )
    content = {
        "environment": environment(setting.device),
        "base": asdict(setting.pick(FULL, QUICK)),
        "points": lines,
        "powers": {a: {n: exponent(p) for n, p in by_name.items()} for a, by_name in lines.items()},
    }
    with replacing(arguments.output / "scaling.json") as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    for axis, powers in content["powers"].items():
        print(
            f"{axis}: exponent of the time: "
            + ", ".join(f"{name} {power:.2f}" for name, power in powers.items())
        )
    return 0


def measure_axes(setting: Setting) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """{axis: {"ours" or "published": points (value, seconds)}}, with one axis varied at a time."""
    base = setting.pick(FULL, QUICK)
    result: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for axis, (field, factors) in AXES.items():
        lines: dict[str, list[tuple[float, float]]] = {"ours": [], "published": []}
        for factor in factors:
            point = replace(base, **{field: _size(field, getattr(base, field) * factor)})
            value = point.side**2 if field == "side" else getattr(point, field)
            for name, seconds in zip(lines, measure_point(setting, point), strict=True):
                lines[name].append((float(value), seconds))
        result[axis] = lines
    return result


def measure_point(setting: Setting, point: Point) -> tuple[float, float]:
    """Median seconds of CMPF and of the published formulation, measured alternately."""
    ours, published = _build(setting, point)
    times: tuple[list[float], list[float]] = ([], [])
    for index in range(ROUNDS + 1):
        for run, measured in zip((ours, published), times, strict=True):
            seconds = timed(run, setting.device)
            if index:  # the first round is a warm-up
                measured.append(seconds)
    return statistics.median(times[0]), statistics.median(times[1])


def _size(field: str, value: float) -> int:
    """Rounds a size down to an integer; sides to multiples of 32."""
    return int(value) // 32 * 32 if field == "side" else int(value)


def _build(setting: Setting, point: Point) -> tuple[Callable[[], Any], Callable[[], Any]]:
    torch.manual_seed(0)
    dim, layers = setting.pick((256, 6), (16, 2))
    channels = setting.pick(CHANNELS, QUICK_CHANNELS)
    pixel_decoder = PixelDecoder(
        in_channels=channels,
        dim=dim,
        mask_dim=dim,
        heads=8,
        points=4,
        layers=layers,
        dim_feedforward=4 * dim,
        norm_groups=8,
    )
    decoder = TransformerDecoder(
        in_channels=dim,
        dim=dim,
        mask_dim=dim,
        embed_dim=EMBED_DIM,
        queries=point.queries,
        heads=8,
        layers=setting.pick(9, 3),
        dim_feedforward=8 * dim,
        sam_channels=dim,
        sam_feature_channels=dim,
        query_injector=None,
        feature_injector=None,
        keep_positions=False,
    )
    pixel_decoder, decoder = pixel_decoder.to(setting.device).eval(), decoder.to(setting.device).eval()
    plain = with_published_attention(pixel_decoder)
    words = vocabulary_of(setting, point.classes + 1, EMBED_DIM)
    strides = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
    levels = {
        name: setting.random(point.batch, channels[name], point.side // stride, point.side // stride)
        for name, stride in strides.items()
    }
    size = (point.side, point.side)

    def ours() -> None:
        with torch.no_grad():
            pixels = pixel_decoder(levels)
            outputs = decoder(pixels.multi_scale, pixels.mask_features, words)
            for logits, masks in zip(outputs["pred_logits"], outputs["pred_masks"], strict=True):
                weights = logits.softmax(dim=-1)[:, :-1]
                semantic_labels(
                    weights, MaskRows(masks, padded=size, unpadded=size, output=size), output=size
                )

    def published() -> None:
        with torch.no_grad():
            pixels = plain(levels)
            outputs = decode(
                decoder,
                pixels.multi_scale,
                pixels.mask_features,
                words,
                sam_embedding=None,
                sam_features=None,
            )
            for logits, masks in zip(outputs["pred_logits"], outputs["pred_masks"], strict=True):
                semantic(logits, restore(masks, Sizes(size, size, size)))

    return ours, published


if __name__ == "__main__":
    raise SystemExit(main())
