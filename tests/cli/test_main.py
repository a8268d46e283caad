# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The command line as a whole: cmpf/cli/__init__.py."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from cmpf import __version__
from cmpf.cli import make_parser

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("predict", "train", "eval", "export", "serve", "datasets", "config", "doctor")
COMMAND = [sys.executable, "-m", "cmpf.cli"]


def commands() -> dict[str, argparse.ArgumentParser]:
    (action,) = (a for a in make_parser()._actions if isinstance(a, argparse._SubParsersAction))
    return dict(action.choices)


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], cwd=cwd, capture_output=True, text=True, check=False)


def test_the_commands_are_those_that_are_documented() -> None:
    assert tuple(commands()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_examples_that_parse_and_help_for_every_option(name: str) -> None:
    parser = commands()[name]
    examples = re.findall(r"^  (cmpf .*?)(?:   .*)?$", parser.epilog or "", flags=re.M)
    assert examples
    for example in examples:
        arguments = make_parser().parse_args(shlex.split(example.partition(" > ")[0])[1:])
        assert callable(arguments.run)
    for action in parser._actions:
        assert action.help, f"{name}: {action.option_strings or action.dest} has no help text"
    options = {option for action in parser._actions for option in action.option_strings}
    assert {"--help", "--debug"} <= options


def test_help_texts_of_all_commands_are_there_without_torch() -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'numpy', 'PIL', 'yaml'): sys.modules[name] = None\n"
        "from cmpf.cli import main\n"
        f"for name in {NAMES!r}:\n"
        "    try: main([name, '--help'])\n"
        "    except SystemExit as stop: assert stop.code == 0\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("examples:") == len(NAMES)


def test_done_is_exit_code_0() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"cmpf {__version__}\n", "")


def test_an_error_is_exit_code_1_and_one_line(tmp_path: Path) -> None:
    done = run("predict", "nowhere.jpg", "--vocabulary", "cat", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("cmpf: nowhere.jpg: no such image")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = run("predict", "nowhere.jpg", "--vocabulary", "cat", "--debug", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback (most recent call last):")
    assert "cmpf.errors.ImageError: nowhere.jpg" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["segment"], "invalid choice: 'segment'"),
        (["predict", "a.jpg", "--vocabulary", "cat", "--task", "depth"], "invalid choice: 'depth'"),
        (["doctor", "--loud"], "unrecognized arguments: --loud"),
    ],
)
def test_wrong_usage_is_exit_code_2_with_the_usage(arguments: list[str], message: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: cmpf")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_that_goes_away_ends_the_command_quietly(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "datasets"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait() == 1


@pytest.mark.slow
def test_ctrl_c_between_images_leaves_whole_files_only(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(20):
        shutil.copy(ROOT / "demo/shapes.jpg", tmp_path / f"photos/{number}.jpg")
    line = ["predict", "photos", "--vocabulary", "red circle; sky", "--output", "out", "--device", "cpu"]
    process = subprocess.Popen(
        [*COMMAND, *line, "--formats", "overlay", "panoptic"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    out = tmp_path / "out"
    while process.poll() is None and not list(out.glob("*.json")):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.communicate()[1] == "stopped\n"
    assert process.returncode == 1
    files = sorted(out.iterdir())
    assert 3 <= len(files) < 60
    for path in files:
        assert path.suffix in (".png", ".json")
        if path.suffix == ".json":
            json.loads(path.read_text())
        else:
            with Image.open(path) as image:
                image.load()
