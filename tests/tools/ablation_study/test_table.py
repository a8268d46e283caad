# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tools.ablation_study.runs import plan
from tools.ablation_study.table import markdown, summarize


def write(folder: Path, results: Any) -> None:
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(results))


def test_mean_and_sample_deviation_over_seeds(tmp_path: Path) -> None:
    runs = plan(["fcclip_tiny"], seeds=3, iterations=1, output=tmp_path, opts=())
    for run, value, ap in zip(runs, (10.0, 20.0, 60.0), (1.0, None, None), strict=True):
        write(run.folder, {"shapes_val": {"panoptic": {"PQ": 0.0, "S_PQ": value}, "segm": {"AP": ap}}})
    table = summarize(runs)["shapes_val"]
    # mean 90 / 3 = 30; squares of differences 400 + 100 + 900 = 1400, / 2 = 700, root 26.46
    assert table["fcclip_tiny"]["PQ seen"]["mean"] == 30.0
    assert table["fcclip_tiny"]["PQ seen"]["std"] == pytest.approx(26.4575, abs=1e-4)
    assert table["fcclip_tiny"]["PQ seen"]["values"] == [10.0, 20.0, 60.0]
    assert table["fcclip_tiny"]["AP"] == {"mean": 1.0, "std": None, "values": [1.0, None, None]}
    lines = markdown(table, names=["fcclip_tiny"]).splitlines()
    assert lines[0].split(" | ")[1:3] == ["PQ seen", "PQ unseen"]
    assert lines[2] == "| fcclip_tiny | 30.0 ± 26.5 | - | - | - | - | - | 1.0 |"


def test_datasets_have_tables_of_their_own(tmp_path: Path) -> None:
    runs = plan(["fcclip_tiny"], seeds=1, iterations=1, output=tmp_path, opts=())
    write(runs[0].folder, {"a": {"segm": {"AP": 1.0}}, "b": {"segm": {"AP": 2.0}}})
    tables = summarize(runs)
    assert {name: rows["fcclip_tiny"]["AP"]["mean"] for name, rows in tables.items()} == {"a": 1.0, "b": 2.0}
