# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The command `cmpf`. Exit codes: 0 done, 1 error (one line; --debug shows the traceback), 2 usage.

Each command is a module with `add_parser`; torch is imported when a command runs, not for the help text.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from cmpf import __version__
from cmpf.cli import datasets, predict, train
from cmpf.cli.outcome import run_command

COMMANDS = (predict, train, datasets)  # in the order of the help text


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code."""
    return run_command(_parser().parse_args(argv), prefix="cmpf")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cmpf", description="Open-vocabulary segmentation with frozen CLIP and SAM."
    )
    parser.add_argument("--version", action="version", version=f"cmpf {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    return parser
