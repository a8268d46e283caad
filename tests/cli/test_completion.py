# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cmpf.cli import main
from cmpf.cli.completion import SHELLS


def script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    pytest.importorskip("shtab")
    with pytest.raises(SystemExit) as stop:
        main(["--completion", shell])
    assert stop.value.code in (0, None)
    return capsys.readouterr().out


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_gets_a_script_with_every_command(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = script(shell, capsys)
    for word in (
        "predict",
        "train",
        "eval",
        "export",
        "serve",
        "datasets",
        "doctor",
        "panoptic",
        "detectron2",
    ):
        assert word in text


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
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
