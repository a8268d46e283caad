# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The command `cmpf`. Exit codes: 0 done, 1 error (one line; --debug shows the traceback), 2 usage.

Each command is a module with a function `add_parser`. The help texts do not need torch: it is imported by `run`.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Sequence
from typing import Any

from cmpf import __version__
from cmpf.cli import (
    ablation_command,
    config,
    convert,
    datasets,
    doctor,
    export,
    label,
    models,
    predict,
    results,
    sam_masks,
    serve,
    train,
)
from cmpf.cli.command import run_command

# In the order of the help text.
COMMANDS = (
    predict,
    label,
    models,
    train,
    ablation_command,
    results,
    sam_masks,
    export,
    serve,
    datasets,
    config,
    convert,
    doctor,
)
SHELLS = ("bash", "zsh", "tcsh")
EXAMPLES = """examples:
  cmpf doctor                                             check the installation
  cmpf predict photo.jpg --vocabulary "cat; dog; grass"   segment an image; results in output/predict
  cmpf models                                             list trained models
  cmpf serve                                              segment images in a browser
  cmpf train --config-file configs/shapes/cmpf_tiny.yaml  train a model
  cmpf eval --model cmpf_tiny                             evaluate a model

Run cmpf COMMAND --help for the options and examples of a command.
exit codes: 0 success, 1 error (one line; --debug shows the traceback), 2 usage error
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code.

    Args:
        argv: command line arguments; None = sys.argv[1:], after which the process must exit.
    """
    code = run_command(make_parser().parse_args(argv), prefix="cmpf")
    # Skips the garbage collection at exit, which would visit all objects of torch and the model for half a second. Not
    # with Triton, whose binding reports every object that is not collected.
    if argv is None and "triton" not in sys.modules:
        gc.freeze()
    return code


def make_parser() -> argparse.ArgumentParser:
    """The argument parser with all commands."""
    parser = argparse.ArgumentParser(
        prog="cmpf",
        description="Open-vocabulary segmentation with frozen CLIP and SAM.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"cmpf {__version__}")
    parser.add_argument(
        "--completion",
        action=_PrintCompletion,
        choices=SHELLS,
        default=argparse.SUPPRESS,
        help="print a shell completion script and exit (extra: completion)",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    return parser


class _PrintCompletion(argparse.Action):
    """Prints a shell completion script for commands, options, choices and files, and exits."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        try:
            import shtab
        except ImportError:
            parser.exit(1, "cmpf: --completion needs the package shtab: pip install 'cmpf[completion]'\n")
        _complete_files(parser, shtab.FILE)
        print(shtab.complete(parser, shell=values))
        parser.exit()


def _complete_files(parser: argparse.ArgumentParser, complete: Any) -> None:
    """Completes string arguments without choices as files, which most of them are."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _complete_files(command, complete)
        elif action.choices is None and action.type is None and action.nargs != 0:
            setattr(action, "complete", complete)  # noqa: B010  (documented by shtab, not declared by argparse)
