# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.toy_training import ToyModel, toy_trainer
from safetensors.torch import load_file

import cmpf
from cmpf.cli import experiment
from cmpf.cli import main as cmpf_main
from cmpf.cli.train import main
from cmpf.engine import profiling
from cmpf.engine.records import Record
from cmpf.engine.trainer import Trainer
from cmpf.engine.writers import Writer, build_writers
from cmpf.errors import ModelNameError, WeightsError
from cmpf.shapeworld.__main__ import main as write_shapeworld

CONFIG = "shapes/fcclip_tiny"
RESULTS = {"shapes_val": {"panoptic": {"PQ": 41.5, "PQ-red circle": 12.0}}}


class Parts:
    """Stands in for cmpf.factory: a toy model and trainer, and what they were asked for."""

    def __init__(self) -> None:
        self.writers: list[Writer] = []  # heard beside the run's own
        self.issue: Exception | None = None
        self.weights = ""

    def use_threads(self, cfg: Any) -> None:
        """Tests keep their number of threads."""

    def build_model(self, cfg: Any) -> ToyModel:
        if self.issue is not None:
            raise self.issue
        self.weights = cfg.MODEL.WEIGHTS
        return ToyModel()

    def build_trainer(self, cfg: Any, model: ToyModel, *, writers: list[Writer]) -> Trainer:
        return toy_trainer(
            Path(cfg.OUTPUT_DIR),
            max_iter=cfg.SOLVER.MAX_ITER,
            model=model,
            evaluate=self.build_evaluation(cfg, model),
            writers=[*writers, *self.writers],
        )

    def build_evaluation(self, cfg: Any, model: ToyModel) -> Any:
        return lambda: RESULTS


class Stopper(Writer):
    """Sends this process SIGTERM in a chosen iteration."""

    def __init__(self, iteration: int) -> None:
        self._iteration = iteration

    def iteration(self, record: Record) -> None:
        if record.iteration == self._iteration:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Parts:
    made = Parts()
    monkeypatch.setattr(experiment, "factory", made)
    return made


def run(folder: Path, *arguments: str) -> int:
    return main(["--config-file", CONFIG, *arguments, "OUTPUT_DIR", str(folder), "SOLVER.MAX_ITER", "4"])


def test_training_leaves_weights_results_log_and_configuration(
    parts: Parts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path) == 0
    assert json.loads((tmp_path / "results.json").read_text()) == RESULTS
    assert "41.50" in (tmp_path / "results.md").read_text()
    assert "41.50" in capsys.readouterr().out
    assert (tmp_path / "model_final.safetensors").exists()
    assert f"OUTPUT_DIR: {tmp_path}" in (tmp_path / "config.yaml").read_text()
    log = (tmp_path / "log.txt").read_text()
    assert log.index("torch ") < log.index("fcclip_tiny") < log.index("iter 4/4") < log.index("41.50")
    losses = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert losses[0]["iteration"] == 2
    assert losses[-1] == {"iteration": 4, "shapes_val/panoptic/PQ": 41.5}
    assert list(tmp_path.glob("events.out.tfevents*"))


def test_a_stopped_training_ends_with_0_and_the_command_that_goes_on(
    parts: Parts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts.writers = [Stopper(2)]
    assert run(tmp_path) == 0
    shown = capsys.readouterr().out
    assert "SIGTERM: stopped after iteration 2, everything is saved" in shown
    assert f"--config-file {CONFIG} --resume OUTPUT_DIR {tmp_path} SOLVER.MAX_ITER 4" in shown
    assert not (tmp_path / "results.json").exists()
    parts.writers = []
    assert run(tmp_path, "--resume") == 0
    assert (tmp_path / "results.json").exists()


def test_resuming_where_nothing_is_begins_at_the_beginning(
    parts: Parts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "--resume") == 0
    assert f"no checkpoint in {tmp_path} yet" in capsys.readouterr().out


def test_training_into_a_used_folder_is_one_line_of_error(
    parts: Parts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path)
    capsys.readouterr()
    assert run(tmp_path) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path} holds checkpoints of an earlier run")
    assert error.count("\n") == 1


def test_other_results_than_the_expected_ones_are_saved_and_exit_code_1(
    parts: Parts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for figure, code in (("41", 0), ("40.5", 1)):  # measured: 41.5
        expected = f'[["panoptic", "PQ", {figure}, 0.75]]'
        line = ("--eval-only", "MODEL.WEIGHTS", "w.safetensors", "TEST.EXPECTED_RESULTS", expected)
        assert run(tmp_path, *line) == code
        assert json.loads((tmp_path / "results.json").read_text()) == RESULTS
    assert capsys.readouterr().err == (
        "error: the results are not those of TEST.EXPECTED_RESULTS: panoptic/PQ is 41.5000, not 40.5 ± 0.75\n"
    )


def test_evaluating_alone_takes_the_weights_named_and_saves_results(parts: Parts, tmp_path: Path) -> None:
    assert run(tmp_path, "--eval-only", "MODEL.WEIGHTS", "some.safetensors") == 0
    assert parts.weights == "some.safetensors"
    assert json.loads((tmp_path / "results.json").read_text()) == RESULTS
    assert not (tmp_path / "metrics.json").exists()


def test_a_killed_evaluation_leaves_no_results_not_even_those_of_an_earlier_one(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed() -> None:
        raise KeyboardInterrupt

    evaluation = ("--eval-only", "MODEL.WEIGHTS", "some.safetensors")
    assert run(tmp_path, *evaluation) == 0
    monkeypatch.setattr(parts, "build_evaluation", lambda cfg, model: killed)
    assert run(tmp_path, *evaluation) == 1
    assert not (tmp_path / "results.json").exists()
    assert not (tmp_path / "results.md").exists()


def test_published_values_stand_beside_the_results(
    parts: Parts, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    published = {"shapes_val": {"panoptic/PQ": 40.0}}
    monkeypatch.setattr(experiment, "published_metrics", lambda cfg: published)
    assert run(tmp_path, "--eval-only", "MODEL.WEIGHTS", "some.safetensors") == 0
    assert "| difference | +1.50 |" in (tmp_path / "results.md").read_text()
    assert "+1.50" in capsys.readouterr().out


def test_evaluating_with_resume_takes_the_newest_checkpoint(parts: Parts, tmp_path: Path) -> None:
    run(tmp_path)
    assert run(tmp_path, "--eval-only", "--resume") == 0
    assert parts.weights == str(tmp_path / "model_0000004.safetensors")


def test_evaluating_needs_weights(parts: Parts, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--eval-only") == 1
    assert "--eval-only needs trained weights: give MODEL.WEIGHTS FILE" in capsys.readouterr().err
    assert run(tmp_path, "--eval-only", "--resume") == 1
    assert "last_checkpoint is missing" in capsys.readouterr().err


def test_a_wrong_key_is_one_line_of_error(
    parts: Parts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "SOLVER.BASE_LRR", "1") == 1
    error = capsys.readouterr().err
    assert "SOLVER.BASE_LR" in error
    assert error.count("\n") == 1


def test_our_own_errors_show_their_message_and_stay_in_the_log(
    parts: Parts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts.issue = WeightsError("no weights at x")
    assert run(tmp_path) == 1
    assert capsys.readouterr().err == "error: no weights at x\n"
    assert "Traceback" in (tmp_path / "log.txt").read_text()
    with pytest.raises(WeightsError):
        run(tmp_path, "--debug")


def test_other_errors_are_one_line_with_their_kind(
    parts: Parts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts.issue = ZeroDivisionError("division by zero")
    assert run(tmp_path) == 1
    assert capsys.readouterr().err == "error: ZeroDivisionError: division by zero (--debug shows where)\n"


def test_ctrl_c_before_the_training_begins_is_one_line(
    parts: Parts, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(cfg: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(parts, "build_model", interrupt)
    assert run(tmp_path) == 1
    assert capsys.readouterr().err == "stopped\n"


@pytest.mark.parametrize(("gpus", "device"), [("0", "cpu"), ("1", "cuda"), (None, "auto")])
def test_the_number_of_gpus_sets_the_device(
    monkeypatch: pytest.MonkeyPatch, gpus: str | None, device: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    arguments = SimpleNamespace(
        config_file=CONFIG,
        opts=[],
        dataset=None,
        num_gpus=gpus and int(gpus),
        num_processes=None,
        eval_only=False,
        resume=False,
        plugin=[],
        allow_unused_weights=False,
    )
    assert device == experiment.configuration(arguments).MODEL.DEVICE  # type: ignore[arg-type]


def test_weights_of_no_use_can_be_allowed() -> None:
    one_process = {"dataset": None, "num_gpus": None, "num_processes": None}
    given = eval_namespace(
        config_file=CONFIG, allow_unused_weights=True, eval_only=False, resume=False, **one_process
    )
    assert experiment.configuration(given).MODEL.ALLOW_UNUSED_WEIGHTS


def test_more_gpus_than_there_are_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run(tmp_path, "--num-gpus", "1") == 1
    assert "--num-gpus 1: there is no CUDA device here; use --num-gpus 0" in capsys.readouterr().err


def configured(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Any:
    """DATASETS of a command line."""
    found: list[Any] = []

    def only_configure(parsed: Any) -> int:
        found.append(experiment.configuration(parsed).DATASETS)
        return 0

    with monkeypatch.context() as patched:
        patched.setattr(experiment, "run", only_configure)
        assert main(["--config-file", CONFIG, *arguments, "MODEL.WEIGHTS", "some.safetensors"]) == 0
    return found[0]


def test_an_own_dataset_takes_the_place_of_training_and_test_datasets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one, two = f"file:{tmp_path}/one.yaml", f"file:{tmp_path}/two.yaml"
    plain, given = configured(monkeypatch), configured(monkeypatch, "--dataset", "one.yaml")
    both = configured(monkeypatch, "--dataset", "one.yaml", "--dataset", two)
    assert (list(plain.TRAIN), list(plain.TEST)) == (["shapes_train"], ["shapes_val"])
    assert (list(given.TRAIN), list(given.TEST)) == ([one], [one])
    assert (list(both.TRAIN), list(both.TEST)) == ([one], [two])


def test_an_evaluation_tests_on_all_own_datasets_and_keeps_what_was_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--eval-only", "--dataset", "one.yaml", "--dataset", "shapes_hard_val"]
    datasets = configured(monkeypatch, *options)
    assert list(datasets.TRAIN) == ["shapes_train"]
    assert list(datasets.TEST) == [f"file:{tmp_path}/one.yaml", "shapes_hard_val"]


def test_the_command_that_goes_on_names_the_own_dataset(
    parts: Parts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts.writers = [Stopper(2)]
    assert run(tmp_path, "--dataset", "shapes_hard_val", "--num-gpus", "0") == 0
    again = f"tools/train_net.py --dataset shapes_hard_val --num-gpus 0 --config-file {CONFIG} --resume"
    assert again in capsys.readouterr().out


def eval_namespace(**given: Any) -> Any:
    usual = {
        "model": None,
        "config_file": None,
        "weights": None,
        "output": None,
        "tta": False,
        "opts": ["SEED", "1"],
        "plugin": [],
        "allow_unused_weights": False,
    }
    return SimpleNamespace(**(usual | given))


def test_eval_takes_configuration_and_weights_of_a_folder_that_a_training_wrote(
    parts: Parts, tmp_path: Path
) -> None:
    run(tmp_path)
    found = experiment.as_eval_only(eval_namespace(model=str(tmp_path), output="out"))
    assert found.config_file == str(tmp_path / "config.yaml")
    weights = str(tmp_path / "model_final.safetensors")
    assert found.opts == ["MODEL.WEIGHTS", weights, "OUTPUT_DIR", "out", "SEED", "1"]
    other = experiment.as_eval_only(eval_namespace(model=str(tmp_path), weights="other.safetensors"))
    assert other.opts == ["MODEL.WEIGHTS", "other.safetensors", "SEED", "1"]


def test_eval_takes_a_model_of_the_zoo_and_refuses_unknown_ones() -> None:
    found = experiment.as_eval_only(eval_namespace(model="cmpf_tiny"))
    assert Path(found.config_file).name == "cmpf_tiny.yaml"
    assert Path(found.opts[1]).name == "cmpf_tiny_decoder.safetensors"
    with pytest.raises(ModelNameError, match="'cmpf_tinny' is unknown, did you mean cmpf_tiny"):
        experiment.as_eval_only(eval_namespace(model="cmpf_tinny"))


def test_eval_without_weights_says_how_to_give_them(parts: Parts, capsys: pytest.CaptureFixture[str]) -> None:
    assert cmpf_main(["eval", "--config-file", CONFIG]) == 1
    assert capsys.readouterr().err == (
        "cmpf: cmpf eval needs trained weights: give --weights FILE, or --model NAME instead of --config-file\n"
    )


def test_a_command_line_without_a_configuration_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 2
    assert "--config-file" in capsys.readouterr().err


WEIGHTS = Path(cmpf.__file__).parent / "assets" / "cmpf_tiny_decoder.safetensors"
# With the real parts: the tiny model, two images a batch.
TINY_SETTINGS = (
    *("SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2"),
    *("NUM_THREADS", "1", "DATALOADER.NUM_WORKERS", "0", "TEST.ENSEMBLE.POINTS_PER_SIDE", "2"),
    *("MODEL.MASK_FORMER.TEST.MASK_RECALL", "True"),
)


@pytest.fixture
def _tiny_shapeworld(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    monkeypatch.setenv("CMPF_CACHE", str(tmp_path / "cache"))
    out = str(tmp_path / "datasets" / "shapeworld")
    assert write_shapeworld(["--out", out, "--train", "6", "--val", "1", "--jobs", "1"]) == 0


def train_tiny(folder: Path, *arguments: str) -> Mapping[str, list[float]]:
    """The run's final weights."""
    config = ["--config-file", "shapes/cmpf_tiny", *arguments, "OUTPUT_DIR", str(folder), *TINY_SETTINGS]
    assert main(config) == 0
    final = folder / "model_final.safetensors"
    return {k: v.tolist() for k, v in load_file(final).items()} if final.exists() else {}


@pytest.mark.usefixtures("_tiny_shapeworld")
def test_a_stopped_and_resumed_training_of_the_tiny_model_is_the_uninterrupted_one_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_tiny(tmp_path / "whole")
    with monkeypatch.context() as patched:
        patched.setattr(experiment, "build_writers", lambda *a, **k: [*build_writers(*a, **k), Stopper(1)])
        assert train_tiny(tmp_path / "parts") == {}
    assert train_tiny(tmp_path / "parts", "--resume") == whole

    results = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("whole", "parts")]
    assert results[0] == results[1]
    tasks = results[0]["shapes_val"]
    assert set(tasks) == {"panoptic", "segm", "bbox", "sem_seg", "mask_recall"}
    assert {"PQ", "S_PQ", "U_PQ"} <= set(tasks["panoptic"])

    weights = str(tmp_path / "whole" / "model_final.safetensors")
    train_tiny(tmp_path / "evaluated", "--eval-only", "MODEL.WEIGHTS", weights)
    again = json.loads((tmp_path / "evaluated" / "results.json").read_text())
    assert again == results[0]


@pytest.mark.usefixtures("_tiny_shapeworld")
def test_a_profile_of_an_evaluation_names_its_parts_and_writes_no_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--config-file", "shapes/cmpf_tiny", "--eval-only", "--profile", "1"]
    settings = [*TINY_SETTINGS, "MODEL.WEIGHTS", str(WEIGHTS), "OUTPUT_DIR", str(tmp_path / "out")]
    assert main([*arguments, *settings]) == 0
    shown = capsys.readouterr().out
    for part in profiling.EVALUATION_SECTIONS:
        assert part in shown
    assert "mean of 1 steps" in shown
    assert (tmp_path / "out" / profiling.TRACE_FILE).is_file()
    assert not (tmp_path / "out" / "results.json").exists()
