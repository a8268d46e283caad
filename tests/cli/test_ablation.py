# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The ablation: its plan, its runs in processes, its table."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from helpers.scripts import script

from cmpf.cli import ablation
from cmpf.cli.ablation import Pool, Process, Run, markdown, plan, start, summarize
from cmpf.cli.ablation_command import CONFIGS
from cmpf.config import config_root
from cmpf.errors import CMPFError, ConfigError


def planned(
    output: Path, *, configs: tuple[str, ...] = CONFIGS, seeds: int = 1, opts: tuple[str, ...] = ()
) -> dict[str, Run]:
    return {run.title: run for run in plan(configs, seeds=seeds, iterations=12, output=output, opts=opts)}


def test_eight_configurations_are_trained_and_those_of_test_time_share_the_weights_of_one(
    tmp_path: Path,
) -> None:
    runs = planned(tmp_path)
    shared = {run.name: run.weights_from.name for run in runs.values() if run.weights_from is not None}
    test_time = (
        "ensemble_published",
        "candidates_plain",
        "candidates_surest",
        "cmpf_tiny",
        "proposals_one_grid",
    )
    shared_with = dict.fromkeys((*test_time, "objectness_half", "objectness_full"), "no_ensemble")
    assert shared == shared_with | {"proposal_queries_candidates": "proposal_queries"}
    whole = runs["cmpf_tiny, seed 0"]
    weights = tmp_path / "no_ensemble" / "seed0" / "model_final.safetensors"
    assert Path(whole.cfg.MODEL.WEIGHTS) == weights
    assert whole.cfg.TEST.ENSEMBLE.ENABLED
    assert not runs["no_ensemble, seed 0"].cfg.TEST.ENSEMBLE.ENABLED
    assert whole.arguments[0] == "eval"
    assert runs["no_ensemble, seed 0"].arguments[:2] == ("train", "--resume")
    assert not any(
        run.weights_from for run in list(runs.values())[:8]
    )  # those whose weights others need come first


def test_masks_of_sam_belong_to_the_training_of_queries_that_start_there(tmp_path: Path) -> None:
    fewer = tmp_path / "fewer.yaml"
    base = config_root() / "shapes" / "proposal_queries.yaml"
    fewer.write_text(f"_BASE_: {base}\nTEST: {{ENSEMBLE: {{POINTS_PER_SIDE: 4}}}}\n")
    runs = planned(tmp_path, configs=("shapes/proposal_queries", str(fewer)))
    assert [run.weights_from for run in runs.values()] == [None, None]


def test_mask_adapter_is_trained_on_the_model_of_its_seed_when_that_is_there(tmp_path: Path) -> None:
    run = planned(tmp_path, seeds=2)["mask_adapter_tiny, seed 1"]
    assert run.base is not None
    assert run.base.title == "fcclip_tiny, seed 1"
    weights = tmp_path / "fcclip_tiny" / "seed1" / "model_final.safetensors"
    assert Path(run.cfg.MODEL.CMPF.MASK_ADAPTER.BASE_WEIGHTS) == weights
    assert not run.ready()
    run.base.folder.mkdir(parents=True)
    (run.base.folder / "results.json").write_text("{}")
    assert run.ready()
    with pytest.raises(ConfigError, match="mask_adapter_tiny is trained on the model of fcclip_tiny"):
        planned(tmp_path, configs=("mask_adapter_tiny",))


def test_every_seed_has_its_own_runs_folder_and_weights(tmp_path: Path) -> None:
    runs = planned(tmp_path, seeds=3)
    assert len(runs) == 3 * len(CONFIGS)
    assert len({run.folder for run in runs.values()}) == 3 * len(CONFIGS)
    assert {run.cfg.SEED for run in runs.values()} == {0, 1, 2}
    assert all(run.weights_from is None or run.weights_from.seed == run.seed for run in runs.values())


def test_the_settings_of_a_run_are_those_of_the_command_line(tmp_path: Path) -> None:
    run = planned(tmp_path, opts=("SOLVER.BASE_LR", "0.25"))["fcclip_tiny, seed 0"]
    assert (run.cfg.SOLVER.MAX_ITER, run.cfg.SOLVER.BASE_LR) == (12, 0.25)
    assert (run.cfg.NUM_THREADS, run.cfg.MODEL.MASK_FORMER.TEST.MASK_RECALL) == (1, True)


def test_a_run_is_finished_when_its_results_are_there(tmp_path: Path) -> None:
    run = planned(tmp_path)["fcclip_tiny, seed 0"]
    assert not run.finished()
    run.folder.mkdir(parents=True)
    (run.folder / "config.yaml").write_text(run.cfg.dump())
    assert not run.finished()
    (run.folder / "results.json").write_text("{}")
    assert run.finished()


def test_results_of_another_configuration_are_not_taken_for_these(tmp_path: Path) -> None:
    run = planned(tmp_path)["fcclip_tiny, seed 0"]
    other = planned(tmp_path, opts=("SOLVER.BASE_LR", "0.25"))["fcclip_tiny, seed 0"]
    run.folder.mkdir(parents=True)
    (run.folder / "config.yaml").write_text(other.cfg.dump())
    with pytest.raises(ConfigError, match=r"fcclip_tiny/seed0 holds a run with another configuration"):
        run.finished()


def test_progress_is_read_from_whole_lines(tmp_path: Path) -> None:
    runs = planned(tmp_path)
    run = runs["no_ensemble, seed 0"]
    assert run.progress() == "starting"
    run.folder.mkdir(parents=True)
    metrics = run.folder / "metrics.json"
    metrics.write_text(json.dumps({"iteration": 6}) + '\n{"itera')
    assert run.progress() == "iteration 6/12"
    metrics.write_text(json.dumps({"iteration": 12}) + "\n")
    assert run.progress() == "evaluating"
    assert runs["cmpf_tiny, seed 0"].progress() == "evaluating"


def test_configurations_of_the_same_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="own name, got cmpf_tiny, cmpf_tiny"):
        planned(tmp_path, configs=("cmpf_tiny", "shapes/cmpf_tiny"))


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    monkeypatch.setattr(ablation, "POLL_SECONDS", 0.01)
    return plan(["no_ensemble", "cmpf_tiny", "fcclip_tiny"], seeds=1, iterations=2, output=tmp_path, opts=())


def finish(run: Run, command: str = "true") -> Process:
    """A process at once, its results written beforehand."""
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / "results.json").write_text(json.dumps({}))
    return subprocess.Popen(["sh", "-c", command])


class Fake:
    """Begins short processes and keeps the order and how many ran at a time."""

    def __init__(self, command: str = "sleep 0.05", fails: str = "") -> None:
        self.begun: list[str] = []
        self.processes: list[Process] = []
        self.most_at_a_time = 0
        self._command, self._fails = command, fails

    def __call__(self, run: Run) -> Process:
        self.begun.append(run.name)
        if run.name == self._fails:
            run.folder.mkdir(parents=True)
            (run.folder / "console.txt").write_text("loading\nerror: no dataset\n")
            process = subprocess.Popen(["sh", "-c", "exit 1"])
        else:
            process = finish(run, self._command)
        self.processes.append(process)
        alive = sum(process.poll() is None for process in self.processes)
        self.most_at_a_time = max(self.most_at_a_time, alive)
        return process


def test_all_runs_are_worked_off_and_their_progress_is_shown(
    runs: list[Run], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ablation, "REPORT_SECONDS", 0.0)
    fake = Fake()
    Pool(jobs=1, start=fake).run_all(runs)
    assert fake.begun == ["no_ensemble", "fcclip_tiny", "cmpf_tiny"]
    assert fake.most_at_a_time == 1
    shown = capsys.readouterr().out
    assert "0 of 3 runs are already finished" in shown
    assert "no_ensemble, seed 0: starting; 2 waiting" in shown
    assert "finished: cmpf_tiny, seed 0" in shown


def test_so_many_processes_run_at_a_time(runs: list[Run]) -> None:
    fake = Fake("sleep 0.3")
    Pool(jobs=2, start=fake).run_all(runs)
    assert fake.most_at_a_time == 2


def test_finished_runs_are_not_begun_again(runs: list[Run], capsys: pytest.CaptureFixture[str]) -> None:
    for run in runs[:2]:
        finish(run).wait()
    fake = Fake()
    Pool(jobs=2, start=fake).run_all(runs)
    assert fake.begun == ["cmpf_tiny"]
    assert "2 of 3 runs are already finished" in capsys.readouterr().out


def test_after_a_failure_nothing_is_begun_and_its_last_line_is_told(runs: list[Run]) -> None:
    fake = Fake(fails="no_ensemble")
    with pytest.raises(
        CMPFError, match=r"no_ensemble, seed 0 failed: error: no dataset \(see .*console\.txt"
    ):
        Pool(jobs=1, start=fake).run_all(runs)
    assert fake.begun == ["no_ensemble"]


def test_a_process_that_ends_without_results_has_failed(runs: list[Run]) -> None:
    def nothing(run: Run) -> Process:
        run.folder.mkdir(parents=True)
        (run.folder / "console.txt").write_text("")
        return subprocess.Popen(["true"])

    with pytest.raises(CMPFError, match="no_ensemble, seed 0 failed: no output"):
        Pool(jobs=1, start=nothing).run_all(runs)


def test_a_signal_stops_all_processes_in_order(runs: list[Run]) -> None:
    fake = Fake("exec sleep 60")

    def begin(run: Run) -> Process:
        process = fake(run)
        (run.folder / "results.json").unlink()
        if len(fake.begun) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return process

    with pytest.raises(CMPFError, match="stopped by SIGINT; run the same command again to resume"):
        Pool(jobs=2, start=begin).run_all(runs)
    assert [process.returncode for process in fake.processes] == [-signal.SIGTERM] * 2


def test_a_run_is_a_command_with_one_thread_and_its_output_in_a_file(
    runs: list[Run], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cmpf").mkdir()
    (tmp_path / "cmpf" / "__main__.py").write_text(
        "import os, sys; print(os.environ['OMP_NUM_THREADS'], os.environ['PYTHONPATH'], *sys.argv[1:5])"
    )
    monkeypatch.setattr(ablation, "CHECKOUT", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert sys.executable
    assert start(runs[0]).wait() == 0
    output = (runs[0].folder / "console.txt").read_text().split()
    assert output == ["1", str(tmp_path), "train", "--resume", "--config-file", "no_ensemble"]


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
    assert lines[0].split(" | ")[1:4] == ["PQ", "PQ seen", "PQ unseen"]
    assert lines[2] == "| fcclip_tiny | 0.0 ± 0.0 | 30.0 ± 26.5 | - | - | - | - | - | 1.0 | - | - |"


def test_datasets_have_tables_of_their_own(tmp_path: Path) -> None:
    runs = plan(["fcclip_tiny"], seeds=1, iterations=1, output=tmp_path, opts=())
    write(runs[0].folder, {"a": {"segm": {"AP": 1.0}}, "b": {"segm": {"AP": 2.0}}})
    tables = summarize(runs)
    assert {name: rows["fcclip_tiny"]["AP"]["mean"] for name, rows in tables.items()} == {"a": 1.0, "b": 2.0}


tool = script("ablation")


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
    monkeypatch.setattr(ablation, "Pool", partial(Pool, start=fake_start))
    assert tool.main(["--seeds", "2", "--iterations", "7", "--jobs", "3", "--output", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    # no_ensemble: 0 and 10, mean 5, deviation 10 / sqrt 2 = 7.07; fcclip_tiny: -5 and 5
    assert "shapes_val: mean ± standard deviation of 2 seeds, 7 iterations, percent" in shown
    assert "| no_ensemble | - | 5.0 ± 7.1 | - | - | - | - | - | - | - | - |" in shown
    assert "| fcclip_tiny | - | 0.0 ± 7.1 | - |" in shown
    table = (tmp_path / "ablation.md").read_text()
    assert table in shown
    rows = [line.split(" | ")[0].strip("| ") for line in table.splitlines() if "±" in line][1:]
    assert tuple(rows) == CONFIGS
    saved = json.loads((tmp_path / "ablation.json").read_text())
    assert saved["shapes_val"]["cmpf_tiny"]["PQ seen"]["values"] == [0.0, 10.0]


def test_one_seed_has_no_deviation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ablation, "Pool", partial(Pool, start=fake_start))
    assert tool.main(["--seeds", "1", "--configs", "fcclip_tiny", "--output", str(tmp_path)]) == 0
    table = (tmp_path / "ablation.md").read_text()
    assert "one seed" in table
    assert "| fcclip_tiny | - | -5.0 | - |" in table


def test_an_error_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(["--output", str(tmp_path), "--opts", "SOLVER.BASE_LRR", "1"]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert "SOLVER.BASE_LR" in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("option", ["--seeds", "--jobs", "--iterations"])
def test_numbers_below_one_are_a_usage_error(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        tool.main([option, "0"])
    assert caught.value.code == 2
    assert "expected a whole number from 1, got 0" in capsys.readouterr().err
