# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The programs: all cases, most memory, cost against size."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from benchmarks import __main__ as runner
from benchmarks import peak, scaling
from benchmarks.cases import CASES
from benchmarks.harness import Measurement, Pair, Spread
from benchmarks.peak import Peak
from benchmarks.report import seconds, table
from benchmarks.scaling import AXES, Point

FAST = [name for name in CASES if not name.startswith(("heads_", "model_", "semantic_", "text"))]


@pytest.mark.parametrize("name", FAST)
def test_a_case_agrees_with_the_published_formulation(name, capsys):
    assert runner.main(["--quick", "--only", name, "--seconds", "0"]) == 0
    assert f"| {name} " in capsys.readouterr().out


@pytest.mark.slow
def test_everything_agrees_and_is_written_to_the_file(tmp_path):
    assert runner.main(["--quick", "--seconds", "0", "--json", str(tmp_path / "all.json")]) == 0
    found = json.loads((tmp_path / "all.json").read_text(encoding="utf-8"))
    assert list(found["cases"]) == list(CASES)
    assert found["quick"] is True
    assert all(case["ratio"]["median"] > 0 for case in found["cases"].values())


def fake(monkeypatch, build):
    monkeypatch.setattr(runner, "CASES", {"fake": build})


def test_a_pair_that_disagrees_fails_the_run(monkeypatch, capsys, tmp_path):
    fake(
        monkeypatch,
        lambda _: Pair(ours=lambda: torch.ones(2), published=lambda: torch.zeros(2), tolerance=0.1),
    )
    assert runner.main(["--json", str(tmp_path / "x.json")]) == 1
    assert "DISAGREES: result differs" in capsys.readouterr().out
    assert "DISAGREES" in json.loads((tmp_path / "x.json").read_text())["cases"]["fake"]["failed"]


def test_a_broken_case_fails_the_run_but_not_its_neighbors(monkeypatch, capsys):
    def broken(_):
        raise ValueError("no such weights")

    fake(monkeypatch, broken)
    assert runner.main([]) == 1
    assert "FAILED: ValueError: no such weights" in capsys.readouterr().out


def test_what_does_not_fit_is_left_out_and_says_how_much_it_needs(monkeypatch, capsys):
    pair = Pair(ours=list, published=list, tolerance=0.0, published_bytes=10**15)
    fake(monkeypatch, lambda _: pair)
    assert runner.main([]) == 0
    assert "not run: the published formulation needs 1000000.0 GB" in capsys.readouterr().out


def test_a_name_that_is_none_gets_a_hint(capsys):
    assert runner.main(["--only", "loser"]) == 2
    error = capsys.readouterr().err
    assert "did you mean losses?" in error
    assert "loader" in error


def test_a_beginning_of_names_stands_for_all_of_them():
    assert runner._matching_cases("heads") == ["heads_19", "heads_150", "heads_847", "heads_1203"]
    assert runner._matching_cases("loader") == ["loader"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_without_a_device_cuda_is_refused(capsys):
    assert runner.main(["--device", "cuda"]) == 2
    assert "--device cpu" in capsys.readouterr().err


def test_the_table_shows_times_ratio_spread_and_memory():
    spread = Spread(0.5, 0.25, 0.75)
    result = Measurement(3, 1e-6, Spread(0.0123, 0, 0), Spread(2.5, 0, 0), spread, 2_000_000, 8_000_000)
    assert result.memory_ratio == 0.25
    text = table({"one": result, "two": "not run: too large"})
    cells = [cell.strip() for cell in text.splitlines()[2].split("|")[1:-1]]
    assert cells == ["one", "12.3 ms", "2.5 s", "0.50", "0.25 to 0.75", "2.0", "8.0", "1e-06"]
    assert "not run: too large" in text.splitlines()[3]
    assert seconds(61.04) == "61 s"


def test_every_case_is_measured_and_recomputing_saves_memory(tmp_path, capsys):
    assert peak.main(["--quick", "--batch", "2", "--json", str(tmp_path / "peak.json")]) == 0
    content = json.loads((tmp_path / "peak.json").read_text(encoding="utf-8"))
    assert content["batch"] == 2
    cases = content["cases"]
    assert list(cases) == list(peak.CASES)
    assert all(case["seconds"] > 0 and case["resident"] > 0 for case in cases.values())
    assert cases["training_with_checkpointing"]["peak"] < cases["training"]["peak"]
    assert cases["evaluation"]["resident"] < cases["training"]["resident"]  # no moments of an optimizer
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[-3:]] == list(peak.CASES)


def test_a_line_adds_up_in_gib():
    line = Peak(seconds=1.25, resident=2**30, peak=3 * 2**29).line("training")
    assert line.split() == ["training", "1.2", "s", "1.00", "+", "1.50", "=", "2.50", "GiB"]


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
    assert "pixels: exponent of the time: ours 1.00, published 2.00" in capsys.readouterr().out
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
