# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import json
import subprocess
from functools import partial
from pathlib import Path

import pytest
from helpers.scripts import script

from cmpf.cli import ablation as study
from cmpf.cli.ablation import Pool, Process, Run
from cmpf.cli.ablation_command import CONFIGS

ablation = script("ablation")


def fake_start(run: Run) -> Process:
    """Results at once: PQ of seen classes is 10 times the seed; fcclip_tiny has 5 less."""
    run.folder.mkdir(parents=True)
    value = 10.0 * run.seed - (5.0 if run.name == "fcclip_tiny" else 0.0)
    results = {"shapes_val": {"panoptic": {"S_PQ": value}, "segm": {"AP": None}}}
    (run.folder / "results.json").write_text(json.dumps(results))
    return subprocess.Popen(["true"])


def test_all_configurations_end_in_one_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(study, "Pool", partial(Pool, start=fake_start))
    assert ablation.main(["--seeds", "2", "--iterations", "7", "--jobs", "3", "--output", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    # no_ensemble: 0 and 10, mean 5, deviation 10 / sqrt 2 = 7.07; fcclip_tiny: -5 and 5
    assert "shapes_val: mean ± standard deviation of 2 seeds, 7 iterations, percent" in shown
    assert "| no_ensemble | 5.0 ± 7.1 | - | - | - | - | - | - |" in shown
    assert "| fcclip_tiny | 0.0 ± 7.1 | - |" in shown
    table = (tmp_path / "ablation.md").read_text()
    assert table in shown
    rows = [line.split(" | ")[0].strip("| ") for line in table.splitlines() if "±" in line][1:]
    assert tuple(rows) == CONFIGS
    saved = json.loads((tmp_path / "ablation.json").read_text())
    assert saved["shapes_val"]["cmpf_tiny"]["PQ seen"]["values"] == [0.0, 10.0]


def test_one_seed_has_no_deviation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "Pool", partial(Pool, start=fake_start))
    assert ablation.main(["--seeds", "1", "--configs", "fcclip_tiny", "--output", str(tmp_path)]) == 0
    table = (tmp_path / "ablation.md").read_text()
    assert "one seed" in table
    assert "| fcclip_tiny | -5.0 | - |" in table


def test_an_error_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ablation.main(["--output", str(tmp_path), "--opts", "SOLVER.BASE_LRR", "1"]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert "SOLVER.BASE_LR" in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("option", ["--seeds", "--jobs", "--iterations"])
def test_numbers_below_one_are_a_usage_error(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        ablation.main([option, "0"])
    assert caught.value.code == 2
    assert "expected a whole number > 0, got 0" in capsys.readouterr().err
