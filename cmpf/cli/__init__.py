# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The command `cmpf`. Exit codes: 0 done, 1 error (one line; --debug shows the traceback), 2 usage.

Each command is a module with `add_parser`; torch is imported when a command runs, not for the help text.
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
  cmpf doctor                                            what is installed, what is missing, does it work
  cmpf predict photo.jpg --vocabulary "cat; dog; grass"  images with their segments, in output/predict
  cmpf models                                            trained models by name
  cmpf serve                                             the same in a browser
  cmpf train --config-file configs/shapes/cmpf_tiny.yaml
  cmpf eval --model cmpf_tiny

cmpf COMMAND --help shows the options and examples of a command.
exit codes: 0 done, 1 error (one line; --debug shows the traceback), 2 wrong usage
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code.

    Args:
        argv: the words; None = those of this process, which ends then.
    """
    code = run_command(make_parser().parse_args(argv), prefix="cmpf")
    # At its end Python would look at all that torch and a model are made of: half a second. Where Triton is imported it
    # has to, because Triton's binding tells of everything that is left then.
    if argv is None and "triton" not in sys.modules:
        gc.freeze()
    return code


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
        action=_PrintCompletion,
        choices=SHELLS,
        default=argparse.SUPPRESS,
        help="print what makes Tab complete commands and options, and exit (extra: completion)",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    return parser


class _PrintCompletion(argparse.Action):
    """Prints what makes the Tab key of a shell complete commands, options, choices and files, and ends the program."""

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


def _complete_files(parser: argparse.ArgumentParser, how: Any) -> None:
    """Lets texts without choices complete as files: most are, and for the others nothing is lost."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _complete_files(command, how)
        elif action.choices is None and action.type is None and action.nargs != 0:
            setattr(action, "complete", how)  # noqa: B010  (shtab's documented way; argparse does not declare it)
