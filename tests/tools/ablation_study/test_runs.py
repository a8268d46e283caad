# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import json
from pathlib import Path

import pytest

from cmpf.errors import ConfigError
from tools.ablation import CONFIGS
from tools.ablation_study.runs import Run, plan


def planned(
    output: Path, *, configs: tuple[str, ...] = CONFIGS, seeds: int = 1, opts: tuple[str, ...] = ()
) -> dict[str, Run]:
    return {run.title: run for run in plan(configs, seeds=seeds, iterations=12, output=output, opts=opts)}


def test_four_configurations_are_trained_and_three_share_the_weights_of_one(tmp_path: Path) -> None:
    runs = planned(tmp_path)
    shared = {run.name: run.weights_from.name for run in runs.values() if run.weights_from is not None}
    assert shared == dict.fromkeys(("cmpf_tiny", "objectness_half", "objectness_full"), "no_ensemble")
    whole = runs["cmpf_tiny, seed 0"]
    weights = tmp_path / "no_ensemble" / "seed0" / "model_final.safetensors"
    assert Path(whole.cfg.MODEL.WEIGHTS) == weights
    assert whole.cfg.TEST.ENSEMBLE.ENABLED
    assert not runs["no_ensemble, seed 0"].cfg.TEST.ENSEMBLE.ENABLED
    assert "--eval-only" in whole.arguments
    assert "--resume" in runs["no_ensemble, seed 0"].arguments
    assert not any(
        run.weights_from for run in list(runs.values())[:4]
    )  # those whose weights others need come first


def test_every_seed_has_its_own_runs_folder_and_weights(tmp_path: Path) -> None:
    runs = planned(tmp_path, seeds=3)
    assert len(runs) == 21
    assert len({run.folder for run in runs.values()}) == 21
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
