# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The command line of every preparation script. Exit codes: 0 done and whole, 1 issues (named), 2 usage."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cmpf.errors import CMPFError, DatasetError
from preparation.coco import write_json
from preparation.images import present, sweep_unfinished
from preparation.model import Check, Issue, Item, Preparation, Step
from preparation.work import Outcome, default_jobs, work_off

ROOT_VARIABLE = "DETECTRON2_DATASETS"
DEFAULT_ROOT = "datasets"
NAMED = 100  # issues of a kind that --check names
LEFTOVER_SECONDS = 3600  # unfinished files older than that belong to no run under way


def run(preparation: Preparation, argv: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code.

    Without --check it makes what is not there yet. Damaged items are named at the end, all others are done.
    """
    arguments = _parser(preparation).parse_args(argv)
    root = Path(arguments.root or os.environ.get(ROOT_VARIABLE) or DEFAULT_ROOT).expanduser()
    splits = list(preparation.images) if arguments.split == "all" else [arguments.split]
    try:
        if arguments.check:
            return _check(preparation, root, splits, jobs=arguments.jobs, images=arguments.images)
        return _prepare(preparation, root, splits, jobs=arguments.jobs, overwrite=arguments.overwrite)
    except CMPFError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on where it was", file=sys.stderr)
        return 1


def _parser(preparation: Preparation) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=preparation.script,
        description=preparation.description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--root", help=f"folder of all datasets (default: ${ROOT_VARIABLE}, else ./{DEFAULT_ROOT})"
    )
    parser.add_argument("--split", default="all", choices=["all", *preparation.images], help="(default: all)")
    parser.add_argument(
        "--jobs", type=_positive, default=default_jobs(), help="processes (default: %(default)s)"
    )
    parser.add_argument("--overwrite", action="store_true", help="make again what is there")
    parser.add_argument("--check", action="store_true", help="make nothing, verify the prepared tree")
    parser.add_argument(
        "--images",
        type=_not_negative,
        help="with --check: images that each split must have (default: as in the release; 0: any number)",
    )
    return parser


def _positive(text: str) -> int:
    number = _not_negative(text)
    if number == 0:
        raise argparse.ArgumentTypeError("expected a whole number > 0, got 0")
    return number


def _not_negative(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}")
    return int(text)


def _prepare(preparation: Preparation, root: Path, splits: list[str], *, jobs: int, overwrite: bool) -> int:
    _require(
        [path for split in splits for path in preparation.raw(root, split)],
        f"{preparation.title}: raw data are missing",
        f"Get them from {preparation.download}, or choose with --root and --split",
    )
    steps = [step for split in splits for step in preparation.plan(root, split)]
    if not steps:
        print(f"{preparation.title}: the release is used as it is; verify it with --check")
    issues = [issue for step in steps for issue in _make(step, jobs=jobs, overwrite=overwrite)]
    if issues:
        print(f"error: {len(issues)} of the items could not be made:", file=sys.stderr)
        for issue in issues:
            print(f"  {issue}", file=sys.stderr)
        print("Replace these files and run the same command again; all others are done.", file=sys.stderr)
    return 1 if issues else 0


def _make(step: Step, *, jobs: int, overwrite: bool) -> list[str]:
    """Does one step; returns what could not be made."""
    todo = _unmade(step, overwrite=overwrite) if step.convert else []
    if step.json is not None and (todo or overwrite):
        step.json.unlink(missing_ok=True)
    for folder in {target.parent for item in step.items for target in item.targets}:
        sweep_unfinished(folder, older_than=time.time() - LEFTOVER_SECONDS)
    outcomes = work_off(step.convert, todo, jobs=jobs, title=step.title) if step.convert else []
    issues = _errors(todo, outcomes)
    if step.convert:
        there = len(step.items) - len(todo)
        print(f"{step.title}: {len(todo) - len(issues):,} made, {there:,} were there, {len(issues):,} failed")
    if issues and step.json is not None:
        print(f"{step.json}: not written before all images of it are whole")
    return issues or _write_record(step, jobs=jobs)


def _write_record(step: Step, *, jobs: int) -> list[str]:
    """Writes the JSON file of a step whose items are all whole."""
    if step.json is None or step.describe is None or step.assemble is None:
        return []
    if step.json.exists():
        print(f"{step.json}: was there")
        return []
    outcomes = work_off(step.describe, step.items, jobs=jobs, title=step.json.name)
    issues = _errors(step.items, outcomes)
    if not issues:
        write_json(step.json, step.assemble([outcome.value for outcome in outcomes]))
        print(f"{step.json}: written, {len(outcomes):,} images")
    return issues


def _unmade(step: Step, *, overwrite: bool) -> list[Item]:
    """Items of which a target is missing."""
    there = set() if overwrite else present(target for item in step.items for target in item.targets)
    return [item for item in step.items if not there.issuperset(item.targets) or overwrite]


def _errors(items: Sequence[Item], outcomes: Sequence[Outcome]) -> list[str]:
    """What went wrong, each with the name of a file."""
    return [
        outcome.error
        if any(str(source) in outcome.error for source in item.sources)
        else f"{item.source}: {outcome.error}"
        for item, outcome in zip(items, outcomes, strict=True)
        if outcome.error
    ]


def _check(preparation: Preparation, root: Path, splits: list[str], *, jobs: int, images: int | None) -> int:
    _require(
        [path for split in splits for path in preparation.prepared(root, split)],
        f"{preparation.title}: not prepared",
        f"Make it with: python datasets/{preparation.script}. Raw data: {preparation.download}",
    )
    wrong = 0
    for split in splits:
        expected = preparation.images[split] if images is None else images
        for check in preparation.checks(root, split):
            issues = [*_miscount(check, expected), *check.issues, *_examine(check, jobs=jobs)]
            _report(check, issues)
            wrong += len(issues)
    if wrong:
        print(f"{preparation.title}: {wrong:,} issues", file=sys.stderr)
    return 1 if wrong else 0


def _miscount(check: Check, expected: int) -> list[Issue]:
    if check.images is None or not expected or check.images == expected:
        return []
    name = f"{check.images:,} found, {expected:,} expected (--images 0 accepts any number)"
    return [Issue("number of images", name)]


def _examine(check: Check, *, jobs: int) -> list[Issue]:
    if check.examine is None:
        return []
    outcomes = work_off(check.examine, check.items, jobs=jobs, title=check.title)
    found = []
    for outcome in outcomes:
        found += [Issue("damaged or of the wrong kind", outcome.error)] if outcome.error else outcome.value
    return found


def _report(check: Check, issues: Sequence[Issue]) -> None:
    kinds: dict[str, list[str]] = {}
    for issue in issues:
        kinds.setdefault(issue.kind, []).append(issue.name)
    counted = "" if check.images is None else f", {check.images:,} images"
    print(f"{check.title}: {'whole' if not issues else f'{len(issues):,} issues'}{counted}")
    for kind, names in kinds.items():
        print(f"  {kind}: {len(names):,}")
        for name in names[:NAMED]:
            print(f"    {name}")
        if len(names) > NAMED:
            print(f"    and {len(names) - NAMED:,} more")


def _require(paths: Sequence[Path], problem: str, fix: str) -> None:
    """One error for all paths, if any is missing."""
    paths = list(dict.fromkeys(paths))
    if all(path.exists() for path in paths):
        return
    looked = ", ".join(f"{path} ({'found' if path.exists() else 'missing'})" for path in paths)
    raise DatasetError(f"{problem}. Looked for {looked}. {fix}")
