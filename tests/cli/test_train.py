# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import argparse

import pytest

from cmpf.cli import experiment, main
from cmpf.cli.train import main as train_net


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> list[argparse.Namespace]:
    """Arguments of experiments, which are not run."""
    found: list[argparse.Namespace] = []

    def run(arguments: argparse.Namespace) -> int:
        found.append(arguments)
        return 0

    monkeypatch.setattr(experiment, "run", run)
    return found


def test_the_script_and_the_command_take_the_same_arguments(received: list[argparse.Namespace]) -> None:
    line = ["--config-file", "x", "--resume", "--num-gpus", "0", "--dataset", "a.yaml", "SEED", "3"]
    assert train_net(line) == 0
    assert main(["train", *line]) == 0
    script, command = (vars(arguments) for arguments in received)
    assert script.pop("program") == "tools/train_net.py"
    assert command.pop("program") == "cmpf train"
    assert script == command
    assert (script["resume"], script["eval_only"], script["opts"]) == (True, False, ["SEED", "3"])
    assert (script["dataset"], script["num_gpus"]) == (["a.yaml"], 0)


def test_eval_is_an_evaluation_with_key_value_behind_its_options(received: list[argparse.Namespace]) -> None:
    line = ["--weights", "w.safetensors", "--output", "out", "--tta", "SEED", "3"]
    assert main(["eval", "--config-file", "x", *line]) == 0
    (arguments,) = received
    assert (arguments.eval_only, arguments.resume, arguments.config_file) == (True, False, "x")
    tta = ["TEST.AUG.ENABLED", "True"]
    assert arguments.opts == ["MODEL.WEIGHTS", "w.safetensors", "OUTPUT_DIR", "out", *tta, "SEED", "3"]


@pytest.mark.parametrize(
    "line",
    [
        ["train"],
        ["eval"],
        ["eval", "--model", "cmpf_tiny", "--config-file", "x"],
        ["train", "--config-file", "x", "--num-gpus", "one"],
    ],
)
def test_wrong_usage_is_exit_code_2(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(line)
    assert stop.value.code == 2
    assert f"usage: cmpf {line[0]}" in capsys.readouterr().err


def test_training_does_not_only_evaluate(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["train", "--config-file", "x", "--eval-only"])
    assert stop.value.code == 2
    assert "unrecognized arguments: --eval-only" in capsys.readouterr().err


@pytest.mark.parametrize(("command", "program"), [("train", "cmpf train"), ("eval", "cmpf eval")])
def test_examples_name_the_command(command: str, program: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    out = capsys.readouterr().out
    assert f"examples:\n  {program} --" in out
    assert "{program}" not in out
