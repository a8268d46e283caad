# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Cost against size."""

from __future__ import annotations

import json

from PIL import Image

from benchmarks import scaling
from benchmarks.scaling import AXES, Point


def test_every_axis_is_moved_alone_and_drawn(tmp_path, monkeypatch, capsys):
    measured: list[Point] = []

    def cost(_, point):
        measured.append(point)
        pixels = point.side**2
        return 1e-9 * pixels * point.batch, 1e-12 * pixels**2 * point.queries * point.classes * point.batch

    monkeypatch.setattr(scaling, "measure_point", cost)
    assert scaling.main(["--quick", "--output", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "scaling.json").read_text(encoding="utf-8"))
    powers = {axis: {n: round(p, 3) for n, p in lines.items()} for axis, lines in found["powers"].items()}
    assert powers == {
        "pixels": {"ours": 1.0, "published": 2.0},
        "queries": {"ours": 0.0, "published": 1.0},
        "classes": {"ours": 0.0, "published": 1.0},
        "batch": {"ours": 1.0, "published": 1.0},
    }
    assert [len(lines["ours"]) for lines in found["points"].values()] == [len(f) for _, f in AXES.values()]
    assert all(
        sum(a != b for a, b in zip(vars(p).values(), vars(scaling.QUICK).values(), strict=True)) <= 1
        for p in measured
    )
    assert "pixels: ours grows with power 1.00, published grows with power 2.00" in capsys.readouterr().out
    with Image.open(tmp_path / "scaling.png") as image:
        assert image.size == (920, 680)
        assert len(image.getcolors(maxcolors=10**6)) > 10


def test_a_point_of_the_real_model_takes_time():
    ours, published = scaling.measure_point(
        scaling.Setting(scaling.torch.device("cpu"), quick=True),
        Point(side=64, queries=4, classes=5, batch=2),
    )
    assert ours > 0
    assert published > 0
