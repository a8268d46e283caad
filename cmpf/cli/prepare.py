# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""cmpf datasets prepare and datasets/prepare_*.py. Exit codes: 0 no issues, 1 issues (listed), 2 usage."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmpf.cli.command import DONE, FAILED, not_negative, positive
from cmpf.errors import CMPFError, DatasetError

if TYPE_CHECKING:
    from cmpf.data.preparation.spec import Preparation

SPLITS = ("train", "val")
JOBS_HELP = "number of processes [one per core, at most 16]"
JSON_HELP = "print issues as JSON"
ALL_HELP = "list all issues, not only the first 20 of each kind"
# Option of a single preparation -> name of the preparation, help text.
OWN_OPTIONS = {
    "full_size": ("ade20k_full", "keep the released image sizes [shorter side at most 512, as published]"),
    "exact_areas": (
        "ade20k_panoptic",
        "compute areas of stuff from the PNGs [before things are pasted, as published]",
    ),
}


def main(name: str, argv: Sequence[str] | None = None) -> int:
    """Runs one command line of datasets/prepare_NAME.py and returns its exit code."""
    from cmpf.data.preparation import get_preparation

    preparation = get_preparation(name)
    parser = argparse.ArgumentParser(
        prog=f"prepare_{name}.py",
        description=preparation.description(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser, splits=tuple(preparation.images), name=name)
    parser.add_argument("--jobs", type=positive, metavar="N", help=JOBS_HELP)
    parser.add_argument("--all", action="store_true", help=ALL_HELP)
    parser.add_argument("--json", action="store_true", help=JSON_HELP)
    arguments = parser.parse_args(argv)
    try:
        return run(name, arguments)
    except CMPFError as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED


def add_options(parser: Any, *, splits: Sequence[str] = SPLITS, name: str = "") -> None:
    """Adds the options of a preparation to a parser or argument group.

    Args:
        splits: choices of --split besides "all".
        name: name of the preparation, which selects its own options; "" = the options of all preparations.
    """
    parser.add_argument("--root", help="root folder of the datasets [$DETECTRON2_DATASETS, or ./datasets]")
    parser.add_argument(
        "--split", default="all", choices=["all", *splits], help="split to prepare or check [all]"
    )
    parser.add_argument("--overwrite", action="store_true", help="recreate existing files")
    parser.add_argument(
        "--force", action="store_true", help="recreate existing files, even JSON files from other programs"
    )
    for option, (owner, text) in OWN_OPTIONS.items():
        if name in ("", owner):
            prefix = "" if name else f"{owner}: "
            parser.add_argument(f"--{option.replace('_', '-')}", action="store_true", help=f"{prefix}{text}")
    parser.add_argument("--check", action="store_true", help="only verify the prepared files")
    parser.add_argument(
        "--images",
        type=not_negative,
        metavar="N",
        help="with --check: expected number of images per split [as in the release; 0 = any number]",
    )


def run(name: str, arguments: argparse.Namespace) -> int:
    """Makes the files that do not exist yet, or with --check verifies them; lists damaged items at the end.

    Returns:
        The exit code.
    Raises:
        CMPFError: files of the release are missing or inconsistent.
    """
    from cmpf.common.processes import default_jobs
    from cmpf.data.datasets.catalog import dataset_root
    from cmpf.data.preparation import get_preparation

    options = {
        option: True
        for option, (owner, _) in OWN_OPTIONS.items()
        if owner == name and getattr(arguments, option)
    }
    preparation = get_preparation(name, **options)
    root = Path(arguments.root).expanduser() if arguments.root else dataset_root()
    splits = list(preparation.images) if arguments.split == "all" else [arguments.split]
    jobs = arguments.jobs or default_jobs()
    try:
        if arguments.check:
            return _check(name, preparation, root, splits, jobs, arguments)
        return _make(
            preparation, root, splits, jobs=jobs, overwrite=arguments.overwrite, force=arguments.force
        )
    except KeyboardInterrupt:
        print("stopped; run the same command again to continue", file=sys.stderr)
        return FAILED


def _make(
    preparation: Preparation, root: Path, splits: list[str], *, jobs: int, overwrite: bool, force: bool
) -> int:
    from cmpf.data.preparation.files import check_replaceable, run_step

    _require(
        [path for split in splits for path in preparation.raw(root, split)],
        f"{preparation.title}: raw data are missing",
        f"Download them from {preparation.download}, or choose with --root and --split",
    )
    steps = [step for split in splits for step in preparation.plan(root, split)]
    if not steps:
        print(f"{preparation.title}: the release is used unchanged; verify it with --check")
    if not force:
        check_replaceable(steps, overwrite=overwrite)
    overwrite = overwrite or force
    issues = [issue for step in steps for issue in run_step(step, jobs=jobs, overwrite=overwrite)]
    if issues:
        print(f"error: {len(issues)} of the items could not be created:", file=sys.stderr)
        for issue in issues:
            print(f"  {issue}", file=sys.stderr)
        print("Replace these files and run the same command again. All others are done.", file=sys.stderr)
    return FAILED if issues else DONE


def _check(
    name: str,
    preparation: Preparation,
    root: Path,
    splits: list[str],
    jobs: int,
    arguments: argparse.Namespace,
) -> int:
    from cmpf.data.datasets.issues import issues_json, issues_text

    _require(
        [path for split in splits for path in preparation.prepared(root, split)],
        f"{preparation.title}: not prepared",
        f"Prepare it with: cmpf datasets prepare {name}. Raw data: {preparation.download}",
    )
    issues = []
    for split in splits:
        expected = preparation.images[split] if arguments.images is None else arguments.images
        for report in preparation.check(root, split, images=expected, jobs=jobs):
            issues += report.issues
            if not arguments.json:
                title = f"{report.name}, {report.images:,} images"
                print(issues_text(title, report.issues, notes=report.notes, everything=arguments.all))
    if arguments.json:
        print(issues_json(issues))
    if issues:
        count = f"{len(issues):,} issue{'s' if len(issues) > 1 else ''}"
        print(f"{preparation.title}: {count}", file=sys.stderr)
    return FAILED if issues else DONE


def _require(paths: Sequence[Path], issue: str, fix: str) -> None:
    """Raises DatasetError, which lists all paths, if one of them does not exist."""
    paths = list(dict.fromkeys(paths))
    if all(path.exists() for path in paths):
        return
    looked = ", ".join(f"{path} ({'found' if path.exists() else 'missing'})" for path in paths)
    raise DatasetError(f"{issue}. Looked for {looked}. {fix}")


def table() -> str:
    """All preparations with their splits and numbers of images."""
    from cmpf.data.preparation import PREPARATIONS, get_preparation

    width = max(map(len, PREPARATIONS))
    lines = []
    for name in PREPARATIONS:
        preparation = get_preparation(name)
        sizes = ", ".join(f"{split} {images:,}" for split, images in preparation.images.items())
        lines.append(f"  {name.ljust(width)}  {preparation.title}: {sizes}")
    return "\n".join(["cmpf datasets prepare NAME prepares a release for training and evaluation:", *lines])
