# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The command line as a whole: commands, exit codes, errors, and `cmpf --completion bash` and its like."""

from __future__ import annotations

import argparse
import gc
import json
import os
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
from cmpf.cli import SHELLS, main, make_parser
from cmpf.cli.command import run_command
from cmpf.common import cpu
from cmpf.errors import WeightsError

ROOT = Path(__file__).resolve().parents[2]
NAMES = (
    "predict",
    "label",
    "models",
    "train",
    "eval",
    "ablation",
    "evaluate-predictions",
    "collect-results",
    "save-sam-masks",
    "export",
    "serve",
    "datasets",
    "config",
    "convert-checkpoint",
    "convert-config",
    "convert-masks",
    "doctor",
)
COMMAND = [sys.executable, "-m", "cmpf"]


def commands() -> dict[str, argparse.ArgumentParser]:
    (action,) = (a for a in make_parser()._actions if isinstance(a, argparse._SubParsersAction))
    return dict(action.choices)


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.skipif(sys.platform != "linux", reason="a variable of GNU OpenMP, which PyTorch uses on Linux")
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, cpu.SPIN_COUNT),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "PASSIVE"}, "0"),
    ],
)
def test_waiting_openmp_threads_spin_briefly_unless_the_user_says_otherwise(
    given: dict[str, str], expected: str
) -> None:
    program = (
        "from argparse import Namespace; from cmpf.cli.command import run_command\n"
        "run_command(Namespace(run=lambda _: bool(__import__('torch').zeros(8).sum()), debug=True), prefix='cmpf')"
    )
    unset = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_WAIT", "GOMP_"))}
    shown = subprocess.run(
        [sys.executable, "-c", program],
        env=unset | {"OMP_DISPLAY_ENV": "VERBOSE"} | given,
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    assert f"GOMP_SPINCOUNT = '{expected}'" in shown


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


def test_only_a_process_that_ends_leaves_its_objects_to_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen: list[bool] = []
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(True))
    assert main(["models"]) == 0
    assert not frozen
    monkeypatch.setattr(sys, "argv", ["cmpf", "models"])
    monkeypatch.setitem(sys.modules, "triton", gc)  # any module
    assert main() == 0
    assert not frozen
    monkeypatch.delitem(sys.modules, "triton")
    assert main() == 0
    assert frozen


def test_a_command_that_trains_ends_without_a_word_of_tritons_binding(tmp_path: Path) -> None:
    done = run("train", "--config-file", "shapes/cmpf_tiny", "--dry-run", cwd=tmp_path)
    assert "shapes_train" in done.stdout + done.stderr
    assert "leaked" not in done.stderr


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
        [*COMMAND, *line, "--formats", "overlay", "coco-panoptic"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    out = tmp_path / "out"
    while process.poll() is None and not list(out.glob("*.jpg")):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert "stopped with" in process.communicate()[1]
    assert process.returncode == 1
    files = [path for path in out.rglob("*") if path.suffix in (".jpg", ".png")]
    assert 2 <= len(files) < 40
    for path in files:
        with Image.open(path) as image:
            image.load()
    panoptic = json.loads((out / "annotations/panoptic.json").read_text())  # of what is there
    assert len(panoptic["images"]) == len(list(out.glob("*.jpg")))


def outcome(error: BaseException | None, *, code: int = 0, debug: bool = False) -> int:
    def run(arguments: argparse.Namespace) -> int:
        if error is not None:
            raise error
        return code

    return run_command(argparse.Namespace(run=run, debug=debug), prefix="cmpf")


def test_a_command_ends_with_its_own_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert (outcome(None), outcome(None, code=1)) == (0, 1)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (WeightsError("no weights at x"), "cmpf: no weights at x\n"),
        (
            ZeroDivisionError("division by zero"),
            "cmpf: ZeroDivisionError: division by zero (--debug shows where)\n",
        ),
        (
            RuntimeError("sizes differ:\n\t3\n\t4"),
            "cmpf: RuntimeError: sizes differ: 3 4 (--debug shows where)\n",
        ),
        (KeyboardInterrupt(), "stopped\n"),
    ],
)
def test_errors_are_one_line_and_exit_code_1(
    error: BaseException, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert outcome(error) == 1
    assert capsys.readouterr().err == line


def test_debug_lets_errors_through() -> None:
    with pytest.raises(ZeroDivisionError):
        outcome(ZeroDivisionError(), debug=True)


def script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["--completion", shell])
    assert stop.value.code in (0, None)
    return capsys.readouterr().out


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_gets_a_script_with_every_command(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = script(shell, capsys)
    for word in (*NAMES, "panoptic", "detectron2"):
        assert word in text


def test_bash_completes_commands_choices_and_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cmpf.sh").write_text(script("bash", capsys))
    (tmp_path / "holiday.jpg").touch()

    def completed(*words: str) -> list[str]:
        # What bash does at a Tab: it sets the words and asks the function.
        line = " ".join(f"'{word}'" for word in ("cmpf", *words))
        call = f"COMP_WORDS=({line}); COMP_CWORD={len(words)}; _shtab_cmpf"
        code = f"source ./cmpf.sh; {call}; printf '%s\\n' ${{COMPREPLY[@]}}"
        done = subprocess.run(
            ["bash", "--norc", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        return sorted(done.stdout.split())

    assert completed("do") == ["doctor"]
    assert completed("predict", "--task", "") == ["all", "instance", "panoptic", "semantic"]
    assert completed("train", "--engine", "nat") == ["native"]
    assert completed("predict", "holi") == ["holiday.jpg"]
    assert completed("export", "--weights", "holi") == ["holiday.jpg"]


def test_without_shtab_the_command_that_installs_it_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(SystemExit) as stop:
        main(["--completion", "bash"])
    assert stop.value.code == 1
    assert capsys.readouterr().err == (
        "cmpf: --completion needs the package shtab: pip install 'cmpf[completion]'\n"
    )


# Predicts after sys.argv[1] has broken an assumption of the deferred import; then uses what needs the compiler.
PREDICT = """
import sys
from cmpf.cli import main
from cmpf.cli.deferred_import import COMPILER, DEFERRED, UTILS
exec(sys.argv[1])
code = main(["predict", "demo/shapes.jpg", "--vocabulary", "red circle", "--output", sys.argv[2]])
deferred = COMPILER not in sys.modules
import torch
assert {"torchvision", "timm", "open_clip"} <= set(sys.modules)
from timm.models.naflexvit import NaFlexVit, NaFlexVitCfg
from torchvision.ops import roi_align
boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0]])
assert float(roi_align(torch.ones(1, 1, 4, 4), [boxes], 1)) == 1
vit = NaFlexVit(NaFlexVitCfg(embed_dim=32, depth=1, num_heads=2, patch_size=8), img_size=32).eval()
image = torch.rand(1, 3, 32, 32)
torch.testing.assert_close(torch.compile(vit, backend="eager")(image), vit(image))
assert hasattr(sys.modules[COMPILER], "optimize")  # the real one
print(code, deferred)
"""


@pytest.mark.parametrize(
    ("broken", "deferred"),
    [
        ("", True),
        (
            "[functions.clear() for functions in DEFERRED.values()]",
            False,
        ),  # the libraries use other functions
        ("del DEFERRED[UTILS]", False),  # they import other modules
    ],
)
def test_the_compiler_is_imported_when_first_used_or_with_the_libraries_if_they_need_more(
    broken: str, deferred: bool, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", PREDICT, broken, str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"0 {deferred}"


# cmpf export: requests that are refused. tests/test_end_to_end.py writes a file.
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--format", "torch-export", "--output", "a.onnx"), "a file of format torch-export ends in .pt2"),
        (
            ("--format", "torch-export", "--output", "a.pt2", "--no-dynamic"),
            "give image_size (--image-size H W)",
        ),
        (("--format", "torch-export", "--output", "a.pt2", "--image-size", "9", "64"), "multiples of 32"),
        (
            ("--format", "torch-export", "--output", "a.pt2", "--model", "cmpf_tinny"),
            "did you mean cmpf_tiny?",
        ),
    ],
)
def test_issues_are_one_line_and_exit_code_1(
    arguments: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
