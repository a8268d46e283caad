# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""cmpf doctor: what is here, what is missing and how to get it, and whether an image can be segmented."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from cmpf.cli.outcome import DONE, FAILED, add_debug

if TYPE_CHECKING:
    from cmpf.cli.doctor_checks import Check
    from cmpf.cli.outcome import Commands

EXAMPLES = """examples:
  cmpf doctor
  cmpf doctor --json > doctor.json

exit code 1 if the self-test fails, or a package that CMPF cannot do without is missing or too old
"""
STATE_WIDTH = len("missing")


def add_parser(commands: Commands) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "doctor",
        help="say what is installed, what is missing, and test it",
        description="Lists versions, devices, optional parts with the commands that install them, weights and "
        "datasets that are here, and segments an image with the tiny model. Downloads nothing.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_debug(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Prints the report."""
    from cmpf.cli import doctor_checks as doctor

    checks = doctor.report()
    well = all(check.state != doctor.FAILED for check in checks)
    if arguments.json:
        print(json.dumps({"ok": well, "checks": [asdict(check) for check in checks]}, indent=1))
    else:
        print(text(checks))
    return DONE if well else FAILED


def text(checks: Sequence[Check]) -> str:
    """The report as people read it: a paragraph a group, a line a check, its fix below; then the verdict."""
    from cmpf.cli.doctor_checks import DATASETS, GROUPS

    blocks = []
    for group in GROUPS:
        mine = [check for check in checks if check.group == group]
        if mine:
            blocks.append(f"{group}\n{_lines(_with_absent_in_one(mine) if group == DATASETS else mine)}")
    return "\n\n".join([*blocks, _verdict(checks)])


def _lines(checks: Sequence[Check]) -> str:
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"  {check.state:<{STATE_WIDTH}}  {check.name:<{width}}  {check.detail}")
        if check.fix:
            lines.append(f"{'':<{STATE_WIDTH + 4}}-> {check.fix}")
    return "\n".join(lines)


def _with_absent_in_one(checks: Sequence[Check]) -> list[Check]:
    """Datasets of which nothing is there share a line: there are many, and few people have them all."""
    from cmpf.cli.doctor_checks import DATASETS, MISSING, Check

    absent = [check for check in checks if check.state == MISSING and check.detail.startswith("0 of ")]
    here = [check for check in checks if check not in absent]
    if absent:
        detail = (
            f"{len(absent)} more have a name; cmpf datasets lists all, cmpf datasets NAME says how to get one"
        )
        here.append(Check(DATASETS, "others", MISSING, detail))
    return here


def _verdict(checks: Sequence[Check]) -> str:
    from cmpf.cli.doctor_checks import FAILED as BAD

    failed = [f"{check.name} ({check.group})" for check in checks if check.state == BAD]
    if failed:
        return f"Not well: {', '.join(failed)}"
    return "All is well. CMPF works without what is missing."
