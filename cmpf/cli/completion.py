# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""cmpf --completion: what makes the Tab key of a shell complete commands, options, choices and files."""

from __future__ import annotations

import argparse
from typing import Any

SHELLS = ("bash", "zsh", "tcsh")


class PrintCompletion(argparse.Action):
    """Prints the completion script of a shell and ends the program, before a command is asked for."""

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
            setattr(action, "complete", how)  # noqa: B010  (shtab looks for it; argparse does not declare it)
