# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The command line: messages of one line and exit codes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cmpf.shapeworld import __main__ as command

ARGUMENTS = ["--train", "1", "--val", "1", "--size", "64", "--jobs", "1"]


def _usage_error(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        command.main(list(arguments))
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    return message


def test_it_writes_and_then_finds_what_is_there(tmp_path, capsys):
    arguments = ["--out", str(tmp_path / "world"), *ARGUMENTS]
    assert command.main(arguments) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'world'}: 2 images written\n"
    assert command.main(arguments) == 0
    assert "already there, nothing to do" in capsys.readouterr().out


def test_another_world_in_the_folder_is_an_error_of_one_line(tmp_path, capsys):
    command.main(["--out", str(tmp_path), *ARGUMENTS])
    capsys.readouterr()
    assert command.main(["--out", str(tmp_path), *ARGUMENTS, "--seed", "4"]) == 1
    message = capsys.readouterr().err
    assert "seed 0, not 4" in message
    assert message.count("\n") == 1
    assert command.main(["--out", str(tmp_path), *ARGUMENTS, "--seed", "4", "--force"]) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--train", "1", "--val", "1"], "--out"),
        (["--out", "x", "--train", "many", "--val", "1"], "many"),
        (["--out", "x", "--train", "-4", "--val", "1"], "train = -4: must be 0 or more"),
        (["--out", "x", "--train", "0", "--val", "0"], "at least one image"),
        (["--out", "x", "--train", "1", "--val", "1", "--size", "8"], "between 64 and 1024"),
        (["--out", "x", "--train", "1", "--val", "1", "--jobs", "0"], "--jobs 0: must be 1 or more"),
        (["--out", "x", "--train", "1", "--val", "1", "--color", "red"], "--color"),
    ],
)
def test_wrong_usage_is_named_and_exits_with_2(capsys, arguments, words):
    assert words in _usage_error(capsys, *arguments)


def test_an_interruption_is_told_in_one_line(tmp_path, capsys, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "write_dataset", interrupted)
    assert command.main(["--out", str(tmp_path), *ARGUMENTS]) == 1
    assert "stopped; the same command starts again" in capsys.readouterr().err


def test_the_module_runs_as_a_program():
    root = Path(__file__).parents[3]
    run = subprocess.run(
        [sys.executable, "-m", "cmpf.shapeworld", "--help"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0
    assert "--hard-val" in run.stdout
