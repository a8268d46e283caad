# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cmpf.errors import CMPFError
from tools.ablation_study import pool as pool_module
from tools.ablation_study.pool import Pool, Process, start
from tools.ablation_study.runs import Run, plan


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    monkeypatch.setattr(pool_module, "POLL_SECONDS", 0.01)
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
    monkeypatch.setattr(pool_module, "REPORT_SECONDS", 0.0)
    fake = Fake()
    Pool(jobs=1, start=fake).work_off(runs)
    assert fake.begun == ["no_ensemble", "fcclip_tiny", "cmpf_tiny"]
    assert fake.most_at_a_time == 1
    shown = capsys.readouterr().out
    assert "0 of 3 runs are there already" in shown
    assert "no_ensemble, seed 0: starting; 2 waiting" in shown
    assert "done: cmpf_tiny, seed 0" in shown


def test_so_many_processes_run_at_a_time(runs: list[Run]) -> None:
    fake = Fake("sleep 0.3")
    Pool(jobs=2, start=fake).work_off(runs)
    assert fake.most_at_a_time == 2


def test_finished_runs_are_not_begun_again(runs: list[Run], capsys: pytest.CaptureFixture[str]) -> None:
    for run in runs[:2]:
        finish(run).wait()
    fake = Fake()
    Pool(jobs=2, start=fake).work_off(runs)
    assert fake.begun == ["cmpf_tiny"]
    assert "2 of 3 runs are there already" in capsys.readouterr().out


def test_after_a_failure_nothing_is_begun_and_its_last_line_is_told(runs: list[Run]) -> None:
    fake = Fake(fails="no_ensemble")
    with pytest.raises(
        CMPFError, match=r"no_ensemble, seed 0 failed: error: no dataset \(see .*console\.txt"
    ):
        Pool(jobs=1, start=fake).work_off(runs)
    assert fake.begun == ["no_ensemble"]


def test_a_process_that_ends_without_results_has_failed(runs: list[Run]) -> None:
    def nothing(run: Run) -> Process:
        run.folder.mkdir(parents=True)
        (run.folder / "console.txt").write_text("")
        return subprocess.Popen(["true"])

    with pytest.raises(CMPFError, match="no_ensemble, seed 0 failed: no output"):
        Pool(jobs=1, start=nothing).work_off(runs)


def test_a_signal_stops_all_processes_in_order(runs: list[Run]) -> None:
    fake = Fake("exec sleep 60")

    def begin(run: Run) -> Process:
        process = fake(run)
        (run.folder / "results.json").unlink()
        if len(fake.begun) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return process

    with pytest.raises(CMPFError, match="stopped by SIGINT; the same command goes on"):
        Pool(jobs=2, start=begin).work_off(runs)
    assert [process.returncode for process in fake.processes] == [-signal.SIGTERM] * 2


def test_a_run_starts_train_net_with_one_thread_and_its_output_in_a_file(
    runs: list[Run], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "train_net.py").write_text(
        "import os, sys; print(os.environ['OMP_NUM_THREADS'], os.environ['PYTHONPATH'], *sys.argv[1:4])"
    )
    monkeypatch.setattr(pool_module, "ROOT", tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert sys.executable
    assert start(runs[0]).wait() == 0
    output = (runs[0].folder / "console.txt").read_text().split()
    assert output == ["1", str(tmp_path), "--config-file", "no_ensemble", "--resume"]
