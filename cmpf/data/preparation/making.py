# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Makes the files of a dataset: what is there is kept, damaged items are told and all others are done."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

from cmpf.common.processes import Result, map_items
from cmpf.data.preparation.files import present, sweep_unfinished
from cmpf.data.preparation.spec import Item, Step
from cmpf.errors import DatasetError
from cmpf.formats.coco_json import write_json
from cmpf.formats.image import DAMAGED

# First in every JSON file that is made here, so that files of other programs are told by their first bytes.
_INFO = {"description": "made by cmpf datasets prepare"}
_LEFTOVER_SECONDS = 3600  # unfinished files older than that belong to no run under way


def check_replaceable(steps: Sequence[Step], *, overwrite: bool) -> None:
    """Makes sure that no JSON file of another program would be replaced: with its PNGs it may be a download.

    Args:
        overwrite: see `make`.
    Raises:
        DatasetError: names the files.
    """
    found = [
        step.json
        for step in steps
        if step.json is not None and _is_foreign(step.json) and (overwrite or _unmade(step, overwrite=False))
    ]
    if found:
        raise DatasetError(
            f"{', '.join(map(str, found))}: not known to be of this command (a download, or of an earlier version), "
            "so kept, and nothing was made; verify it with --check, or replace it and its PNGs with --force"
        )


def make(step: Step, *, jobs: int, overwrite: bool) -> list[str]:
    """Does one step and prints what was done; returns what could not be made, each with the name of a file.

    Args:
        jobs: processes.
        overwrite: make again what is there; see check_replaceable.
    Raises:
        DatasetError: the disk is full, or what was made does not fit together.
    """
    todo = _unmade(step, overwrite=overwrite) if step.convert else []
    if step.json is not None and (todo or overwrite):
        step.json.unlink(missing_ok=True)
    for folder in {target.parent for item in step.items for target in item.targets}:
        sweep_unfinished(folder, older_than=time.time() - _LEFTOVER_SECONDS)
    issues: list[str] = []
    if step.convert:
        issues = _errors(todo, map_items(step.convert, todo, jobs=jobs, title=step.title, damaged=DAMAGED))
        there = len(step.items) - len(todo)
        print(f"{step.title}: {len(todo) - len(issues):,} made, {there:,} were there, {len(issues):,} failed")
    if issues and step.json is not None:
        print(f"{step.json}: not written before all images of it are whole")
    return issues or _write_json(step, jobs=jobs)


def _write_json(step: Step, *, jobs: int) -> list[str]:
    """Writes the JSON file of a step whose items are all whole."""
    if step.json is None or step.describe is None or step.assemble is None:
        return []
    if step.json.exists():
        print(f"{step.json}: was there")
        return []
    results = map_items(step.describe, step.items, jobs=jobs, title=step.json.name, damaged=DAMAGED)
    issues = _errors(step.items, results)
    if not issues:
        write_json(step.json, {"info": _INFO, **step.assemble([result.value for result in results])})
        print(f"{step.json}: written, {len(results):,} images")
    return issues


def _is_foreign(path: Path) -> bool:
    """Whether a JSON file is there that `make` has not written."""
    if not path.is_file():
        return False
    mark = json.dumps({"info": _INFO}).removesuffix("}").encode()
    with path.open("rb") as opened:
        return opened.read(len(mark)) != mark


def _unmade(step: Step, *, overwrite: bool) -> list[Item]:
    """Items of which a target is missing."""
    if overwrite:
        return list(step.items)
    there = present(target for item in step.items for target in item.targets)
    return [item for item in step.items if not there.issuperset(item.targets)]


def _errors(items: Sequence[Item], results: Sequence[Result]) -> list[str]:
    return [
        result.error
        if any(str(source) in result.error for source in item.sources)
        else f"{item.source}: {result.error}"
        for item, result in zip(items, results, strict=True)
        if result.error
    ]
