# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import argparse

import pytest

from cmpf.cli.outcome import run_command
from cmpf.errors import WeightsError


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
