# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

import cmpf.export
from cmpf.cli import export
from cmpf.cli.outcome import run_command
from cmpf.export import ExportReport
from cmpf.export.running import WordFile
from cmpf.predictor import Predictor


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    export.add_parser(parser.add_subparsers())
    return run_command(parser.parse_args(["export", *arguments]), prefix="cmpf")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What export_model was asked for; it writes nothing but a word."""
    asked: dict[str, Any] = {}

    def stand_in(predictor: Predictor, path: Path, **options: Any) -> ExportReport:
        asked.update(options, predictor=predictor)
        path.write_text("program")
        return ExportReport(files=(path,), left_out=(), agreements=(), seconds=1.0)

    monkeypatch.setattr(cmpf.export, "export_model", stand_in)
    return asked


def test_what_the_file_lacks_is_said_first_and_the_report_last(
    asked: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--format", "torch-export", "--output", str(tmp_path / "tiny.pt2")) == 0
    shown = capsys.readouterr().out
    assert shown.index("OpenSeg Ensemble") < shown.index("tiny.pt2 (0.0 MB), made and checked in 1 s")
    assert asked["format"] == "torch-export"
    assert asked["image_size"] is None
    assert asked["dynamic"]
    assert asked["predictor"].mask_ensemble is None


def test_size_and_vocabulary_are_options(asked: dict[str, Any], tmp_path: Path) -> None:
    output = tmp_path / "tiny.pt2"
    options = ("--no-dynamic", "--image-size", "64", "96", "--vocabulary", "cat; dog, puppy")
    assert run("--format", "torch-export", "--output", str(output), *options) == 0
    assert asked["image_size"] == (64, 96)
    assert not asked["dynamic"]
    assert list(WordFile(tmp_path / "tiny.words.safetensors").row) == ["cat", "dog", "puppy"]


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
    asked: dict[str, Any], capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert run(*arguments) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not asked
