# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""cmpf export: requests that are refused. tests/test_end_to_end.py writes a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from cmpf.cli import main


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
