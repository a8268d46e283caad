# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""cmpf train, cmpf eval and tools/train_net.py, with the tiny model; test_end_to_end.py runs the installed command."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from helpers.distributed_training import StopAt
from helpers.prepared_trees import write_prepared_trees
from helpers.published_words import write_published_words
from safetensors.torch import load_file

import cmpf
from cmpf import factory
from cmpf.cli import experiment, experiment_run, make_parser
from cmpf.cli import main as cmpf_main
from cmpf.cli.train import main, script_parser
from cmpf.config import get_cfg
from cmpf.engine import profiling
from cmpf.engine.writers import build_writers
from cmpf.errors import ConfigError, ModelNameError, WeightsError
from cmpf.model import CMPF
from cmpf.shapeworld.__main__ import main as write_shapeworld

CONFIG = "shapes/cmpf_tiny"
WEIGHTS = Path(cmpf.__file__).parent / "assets" / "cmpf_tiny_decoder.safetensors"
# Two iterations of two images, and masks of every kind of evaluation.
SETTINGS = (
    *("SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2"),
    *("NUM_THREADS", "1", "DATALOADER.NUM_WORKERS", "0", "TEST.ENSEMBLE.POINTS_PER_SIDE", "2"),
    *("MODEL.MASK_FORMER.TEST.MASK_RECALL", "True"),
)
# What CONFIG names anyway; the command that goes on names them again.
DATASETS = ("--dataset", "shapes_train", "--dataset", "shapes_val", "--num-gpus", "0")


@dataclass(frozen=True)
class Run:
    """What one command line left."""

    folder: Path
    code: int
    out: str
    err: str

    def results(self) -> dict[str, dict[str, float]]:
        found: dict[str, Any] = json.loads((self.folder / "results.json").read_text())
        return dict(found["shapes_val"])


def run(folder: Path, *arguments: str) -> Run:
    """One command line of tools/train_net.py."""
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        code = main(["--config-file", CONFIG, *arguments, "OUTPUT_DIR", str(folder), *SETTINGS])
    return Run(folder, code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module", autouse=True)
def _small_shapeworld(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    root = tmp_path_factory.mktemp("datasets")
    world = ["--out", str(root / "shapeworld"), "--train", "6", "--val", "1", "--jobs", "1"]
    assert write_shapeworld(world) == 0
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("DETECTRON2_DATASETS", str(root))
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A whole training, in a folder that was empty."""
    return run(tmp_path_factory.mktemp("trained"), "--resume", *DATASETS)


def test_training_leaves_weights_results_log_and_configuration(trained: Run) -> None:
    assert trained.code == 0
    assert f"no checkpoint in {trained.folder}: starting from the beginning" in trained.out
    tasks = trained.results()
    assert set(tasks) == {"panoptic", "segm", "bbox", "sem_seg", "mask_recall"}
    assert {"PQ", "S_PQ", "U_PQ"} <= set(tasks["panoptic"])
    saved = json.loads((trained.folder / "results.json").read_text())
    assert saved["protocol"]["shapes_val"]["protocol"] == "no published benchmark"
    assert saved["protocol"]["shapes_val"]["words"] == "own"
    quality = f"{tasks['panoptic']['PQ']:.2f}"
    assert quality in (trained.folder / "results.md").read_text()
    assert quality in trained.out
    assert f"OUTPUT_DIR: {trained.folder}" in (trained.folder / "config.yaml").read_text()
    log = (trained.folder / "log.txt").read_text()
    assert (
        log.index("torch ")
        < log.index(CONFIG)
        < log.index("engine: native")
        < log.index("iter 2/2")
        < log.index("results, also written to")
    )
    lines = [json.loads(line) for line in (trained.folder / "metrics.json").read_text().splitlines()]
    assert [line["iteration"] for line in lines if "loss_ce" in line] == [2]
    assert lines[-1]["iteration"] == 2
    assert lines[-1]["shapes_val/panoptic/PQ"] == tasks["panoptic"]["PQ"]
    assert list(trained.folder.glob("events.out.tfevents*"))


def test_a_stopped_and_resumed_training_is_the_uninterrupted_one_bit_for_bit(
    trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(experiment_run, "build_writers", lambda *a, **k: [*build_writers(*a, **k), StopAt(1)])
        stopped = run(tmp_path, *DATASETS)
    assert stopped.code == 0
    assert "SIGTERM: stopped after iteration 1, everything is saved. Resume with: " in stopped.out
    again = f"tools/train_net.py {' '.join(DATASETS)} --config-file {CONFIG} --resume OUTPUT_DIR {tmp_path} SOLVER.MAX_"
    assert again in stopped.out
    assert not (tmp_path / "model_final.safetensors").exists()
    assert not (tmp_path / "results.json").exists()

    resumed = run(tmp_path, "--resume", *DATASETS)
    found, whole = (load_file(one.folder / "model_final.safetensors") for one in (resumed, trained))
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[name], whole[name]) for name in whole)
    assert resumed.results() == trained.results()


def test_an_evaluation_by_the_published_protocol_looks_for_the_papers_words_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_prepared_trees(tmp_path / "data")
    write_published_words(tmp_path / "cache", monkeypatch)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "data"))
    name, coco = "openvocab_pascal20_sem_seg_val", "openvocab_coco_2017_train_panoptic_with_sem_seg"
    command = ["eval", "--config-file", "shapes/no_ensemble", "--weights", str(WEIGHTS), "--dataset", name]
    command += ["--output", str(tmp_path / "out"), "--protocol", "published"]
    settings = ["DATASETS.TRAIN", coco, "DATALOADER.NUM_WORKERS", "0", "INPUT.MIN_SIZE_TEST", "64"]
    assert cmpf_main([*command, *settings]) == 0
    saved = json.loads((tmp_path / "out" / "results.json").read_text())
    assert saved["protocol"][name]["protocol"] == saved["protocol"][name]["words"] == "published"
    assert any(metric == "IoU-pascal_voc_21 1" for metric in saved[name]["sem_seg"])
    assert f"| {name} | published |" in (tmp_path / "out" / "results.md").read_text()
    assert "published" in capsys.readouterr().out


def test_an_evaluation_gives_the_results_of_the_training_beside_published_ones_and_one_that_is_killed_none(
    trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = str(trained.folder / "model_final.safetensors")
    quality = trained.results()["panoptic"]["PQ"]
    expected = ("TEST.EXPECTED_RESULTS", f'[["panoptic", "PQ", {quality - 0.5}, 0.75]]')
    evaluation = ("--eval-only", "MODEL.WEIGHTS", weights, *expected)
    monkeypatch.setattr(
        experiment_run, "published_metrics", lambda cfg: {"shapes_val": {"panoptic/PQ": quality - 1.5}}
    )
    protocol = {"protocol": "published"}
    monkeypatch.setattr("cmpf.factory.protocols_of", lambda cfg: {"shapes_val": protocol}, raising=False)
    evaluated = run(tmp_path, *evaluation)
    assert evaluated.code == 0
    assert evaluated.results() == trained.results()
    assert "| difference | +1.50 |" in (tmp_path / "results.md").read_text()
    assert "+1.50" in evaluated.out
    assert not (tmp_path / "metrics.json").exists()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(CMPF, "infer", killed)
    assert run(tmp_path, *evaluation).code == 1
    assert not (tmp_path / "results.json").exists()
    assert not (tmp_path / "results.md").exists()


def test_other_results_than_the_expected_ones_are_saved_and_exit_code_1(trained: Run, tmp_path: Path) -> None:
    quality, weights = trained.results()["panoptic"]["PQ"], trained.folder / "model_final.safetensors"
    expected = ("TEST.EXPECTED_RESULTS", f'[["panoptic", "PQ", {quality - 1}, 0.75]]')
    found = run(tmp_path, "--eval-only", "MODEL.WEIGHTS", str(weights), *expected)
    assert found.code == 1
    assert "error: the results are not those of TEST.EXPECTED_RESULTS: panoptic/PQ is" in found.err
    assert found.results() == trained.results()


def test_training_into_a_used_folder_is_one_line_of_error(trained: Run) -> None:
    found = run(trained.folder)
    assert found.code == 1
    assert found.err.startswith(f"error: {trained.folder} holds checkpoints of an earlier run")
    assert found.err.count("\n") == 1


def test_a_profile_of_an_evaluation_names_its_parts_and_writes_no_results(tmp_path: Path) -> None:
    found = run(tmp_path, "--eval-only", "--profile", "1", "MODEL.WEIGHTS", str(WEIGHTS))
    assert found.code == 0
    for part in profiling.EVALUATION_SECTIONS:
        assert part in found.out
    assert "mean of 1 steps" in found.out
    assert (tmp_path / profiling.TRACE_FILE).is_file()
    assert not (tmp_path / "results.json").exists()


# What ends before a model is built


def test_evaluating_needs_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = run(tmp_path, "--eval-only")
    assert missing.code == 1
    assert "--eval-only needs trained weights: give MODEL.WEIGHTS FILE" in missing.err
    assert "last_checkpoint is missing" in run(tmp_path, "--eval-only", "--resume").err
    assert cmpf_main(["eval", "--model", "cmpf_tiny", "DATASETS.TEST", "()"]) == 1
    assert "DATASETS.TEST is empty, so there is nothing to evaluate" in capsys.readouterr().err
    assert cmpf_main(["eval", "--config-file", CONFIG]) == 1
    assert capsys.readouterr().err == (
        "cmpf: cmpf eval needs trained weights: give --weights FILE, or --model NAME instead of --config-file\n"
    )


def test_a_wrong_key_is_one_line_of_error(tmp_path: Path) -> None:
    found = run(tmp_path, "SOLVER.BASE_LRR", "1")
    assert found.code == 1
    assert "did you mean SOLVER.BASE_LR" in found.err
    assert found.err.count("\n") == 1


def test_our_own_errors_show_their_message_and_stay_in_the_log(tmp_path: Path) -> None:
    absent = ("MODEL.WEIGHTS", str(tmp_path / "absent.safetensors"))
    found = run(tmp_path, *absent)
    assert found.code == 1
    assert found.err.startswith(f"error: no weights at {absent[1]}: no such file")
    assert found.err.count("\n") == 1
    assert "Traceback" in (tmp_path / "log.txt").read_text()
    with pytest.raises(WeightsError, match=r"absent\.safetensors"):
        run(tmp_path, "--debug", *absent)


def test_a_missing_dataset_is_named_before_the_model_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(factory, "build_model", None)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    assert "error: shapes_train: not on disk" in run(tmp_path).err
    assert "error: shapes_val: not on disk" in run(tmp_path, "--eval-only", "MODEL.WEIGHTS", str(WEIGHTS)).err


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            ZeroDivisionError("division by zero"),
            "error: ZeroDivisionError: division by zero (--debug shows where)",
        ),
        (KeyboardInterrupt(), "stopped"),
    ],
)
def test_other_errors_are_one_line_with_their_kind_and_so_is_ctrl_c(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, line: str
) -> None:
    def fail(cfg: Any) -> None:
        raise error

    monkeypatch.setattr(factory, "build_model", fail)
    found = run(tmp_path)
    assert (found.code, found.err) == (1, f"{line}\n")


def test_more_gpus_than_there_are_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    found = run(tmp_path, "--num-gpus", "1")
    assert found.code == 1
    assert "--num-gpus 1: there is no CUDA device here; use --num-gpus 0" in found.err


# Command lines and their configurations


def configured(*arguments: str) -> Any:
    """Configuration of a command line."""
    return experiment.configuration(script_parser().parse_args(["--config-file", CONFIG, *arguments]))


def evaluation(*arguments: str) -> Any:
    """What a line of cmpf eval stands for."""
    return experiment.as_eval_only(make_parser().parse_args(["eval", *arguments]))


def test_the_script_and_the_command_take_the_same_arguments() -> None:
    line = ["--config-file", "x", "--resume", "--num-gpus", "0", "--dataset", "a.yaml", "SEED", "3"]
    script, command = vars(script_parser().parse_args(line)), vars(make_parser().parse_args(["train", *line]))
    assert script.pop("program") == "tools/train_net.py"
    assert command.pop("program") == "cmpf train"
    assert script == command
    assert (script["resume"], script["eval_only"], script["opts"]) == (True, False, ["SEED", "3"])
    assert (script["dataset"], script["num_gpus"]) == (["a.yaml"], 0)


@pytest.mark.parametrize(("gpus", "device"), [("0", "cpu"), ("1", "cuda"), (None, "auto")])
def test_the_number_of_gpus_sets_the_device(
    monkeypatch: pytest.MonkeyPatch, gpus: str | None, device: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    cfg = experiment.configuration(
        script_parser().parse_args(
            ["--config-file", "shapes/fcclip_tiny", *(["--num-gpus", gpus] if gpus else [])]
        )
    )
    assert device == cfg.MODEL.DEVICE


def test_weights_of_no_use_can_be_allowed() -> None:
    assert configured("--allow-unused-weights").MODEL.ALLOW_UNUSED_WEIGHTS
    assert not configured().MODEL.ALLOW_UNUSED_WEIGHTS


def test_an_own_dataset_takes_the_place_of_training_and_test_datasets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one, two = f"file:{tmp_path}/one.yaml", f"file:{tmp_path}/two.yaml"
    plain, given = configured().DATASETS, configured("--dataset", "one.yaml").DATASETS
    both = configured("--dataset", "one.yaml", "--dataset", two).DATASETS
    assert (list(plain.TRAIN), list(plain.TEST)) == (["shapes_train"], ["shapes_val"])
    assert (list(given.TRAIN), list(given.TEST)) == ([one], [one])
    assert (list(both.TRAIN), list(both.TEST)) == ([one], [two])


def test_an_evaluation_tests_on_all_own_datasets_and_keeps_what_was_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    datasets = ("--dataset", "one.yaml", "--dataset", "shapes_hard_val")
    found = configured("--eval-only", *datasets, "MODEL.WEIGHTS", "some.safetensors").DATASETS
    assert list(found.TRAIN) == ["shapes_train"]
    assert list(found.TEST) == [f"file:{tmp_path}/one.yaml", "shapes_hard_val"]


def test_evaluating_with_resume_takes_the_newest_checkpoint(trained: Run) -> None:
    cfg = configured("--eval-only", "--resume", "OUTPUT_DIR", str(trained.folder))
    assert str(trained.folder / "model_0000002.safetensors") == cfg.MODEL.WEIGHTS


def test_eval_takes_configuration_and_weights_of_a_folder_that_a_training_wrote(trained: Run) -> None:
    folder = str(trained.folder)
    found = evaluation("--model", folder, "--output", "out", "--tta", "SEED", "1")
    assert found.config_file == str(trained.folder / "config.yaml")
    weights = str(trained.folder / "model_final.safetensors")
    own = ["MODEL.WEIGHTS", weights, "OUTPUT_DIR", "out", "TEST.AUG.ENABLED", "True"]
    assert found.opts == [*own, "SEED", "1"]
    assert (found.eval_only, found.resume) == (True, False)
    other = evaluation("--model", folder, "--weights", "other.safetensors", "SEED", "1")
    here = [
        "OUTPUT_DIR",
        f"output/eval/{trained.folder.name}",
    ]  # a folder may be somebody else's: it does not choose
    assert other.opts == ["MODEL.WEIGHTS", "other.safetensors", *here, "SEED", "1"]


def test_eval_takes_a_model_of_the_zoo_and_refuses_unknown_ones() -> None:
    found = evaluation("--model", "cmpf_tiny")
    assert Path(found.config_file).name == "cmpf_tiny.yaml"
    assert Path(found.opts[1]) == WEIGHTS
    with pytest.raises(ModelNameError, match="'cmpf_tinny' is unknown, did you mean cmpf_tiny"):
        evaluation("--model", "cmpf_tinny")


@pytest.mark.parametrize(
    "line",
    [
        ["train"],
        ["eval"],
        ["eval", "--model", "cmpf_tiny", "--config-file", "x"],
        ["train", "--config-file", "x", "--num-gpus", "one"],
        ["train", "--config-file", "x", "--num-gpus", "-1"],
        ["train", "--config-file", "x", "--num-processes", "0"],
        ["train", "--config-file", "x", "--profile", "-1"],
    ],
)
def test_wrong_usage_is_exit_code_2(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cmpf_main(line)
    assert stop.value.code == 2
    assert f"usage: cmpf {line[0]}" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2
    assert "--config-file" in capsys.readouterr().err


def test_training_does_not_only_evaluate(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cmpf_main(["train", "--config-file", "x", "--eval-only"])
    assert stop.value.code == 2
    assert "unrecognized arguments: --eval-only" in capsys.readouterr().err


@pytest.mark.parametrize(("command", "program"), [("train", "cmpf train"), ("eval", "cmpf eval")])
def test_examples_name_the_command(command: str, program: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cmpf_main([command, "--help"])
    out = capsys.readouterr().out
    assert f"examples:\n  {program} --" in out
    assert "{program}" not in out


# --engine


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Stands in for cmpf.detectron2; `reason` is what keeps it from running."""
    module = ModuleType("cmpf.detectron2")
    module.reason = ""  # type: ignore[attr-defined]
    module.obstacle = lambda cfg, eval_only: module.reason  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cmpf.detectron2", module)
    monkeypatch.setattr(cmpf, "detectron2", module, raising=False)
    return module


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Detectron2 cannot be imported."""
    monkeypatch.delattr(cmpf, "detectron2", raising=False)
    monkeypatch.setitem(sys.modules, "cmpf.detectron2", None)


def chosen(wanted: str, *, profile: bool = False) -> object:
    return experiment_run.detectron2_engine(wanted, get_cfg(), eval_only=False, profile=profile)


@pytest.mark.parametrize("profile", [False, True])
def test_an_installed_detectron2_changes_nothing_that_was_not_asked_for(
    host: ModuleType, profile: bool
) -> None:
    wanted = make_parser().parse_args(["train", "--config-file", CONFIG]).engine
    assert chosen(wanted, profile=profile) is None


def test_detectron2_runs_where_it_is_asked_for(host: ModuleType) -> None:
    assert chosen("detectron2") is host


def test_asking_for_an_absent_detectron2_is_an_error(absent: None) -> None:
    assert chosen("native") is None
    with pytest.raises(ConfigError, match="--engine detectron2: "):
        chosen("detectron2")


def test_what_detectron2_cannot_run_is_an_error_that_names_the_native_engine(host: ModuleType) -> None:
    host.reason = "no averages"  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"--engine detectron2: no averages; use --engine native"):
        chosen("detectron2")
    with pytest.raises(ConfigError, match="--profile measures the native engine"):
        chosen("detectron2", profile=True)


def test_a_process_that_only_starts_others_imports_no_model() -> None:
    """With 8 GPUs it would delay all of them; each process imports what it needs itself."""
    code = (
        "import sys, cmpf.cli.experiment\n"
        "print(*{'torchvision', 'timm', 'open_clip', 'cmpf.model'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
