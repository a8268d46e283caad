# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The command `cmpf`. Exit codes: 0 done, 1 error (one line; --debug shows the traceback), 2 usage.

Each command is a module with `add_parser`; torch is imported when a command runs, not for the help text.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from cmpf import __version__
from cmpf.cli import config, datasets, doctor, export, predict, serve, train
from cmpf.cli.completion import SHELLS, PrintCompletion
from cmpf.cli.outcome import run_command

COMMANDS = (predict, train, export, serve, datasets, config, doctor)  # in the order of the help text
EXAMPLES = """examples:
  cmpf doctor                                            what is installed, what is missing, does it work
  cmpf predict photo.jpg --vocabulary "cat; dog; grass"  images with their segments, in output/predict
  cmpf serve                                             the same in a browser
  cmpf train --config-file configs/shapes/cmpf_tiny.yaml
  cmpf eval --model cmpf_tiny

cmpf COMMAND --help shows the options and examples of a command.
exit codes: 0 done, 1 error (one line; --debug shows the traceback), 2 wrong usage
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code."""
    return run_command(make_parser().parse_args(argv), prefix="cmpf")


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="cmpf",
        description="Open-vocabulary segmentation with frozen CLIP and SAM.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"cmpf {__version__}")
    parser.add_argument(
        "--completion",
        action=PrintCompletion,
        choices=SHELLS,
        default=argparse.SUPPRESS,
        help="print what makes Tab complete commands and options, and exit (extra: completion)",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    return parser
