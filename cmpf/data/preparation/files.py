# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Runs preparation steps, and helpers for them: listing, linking and reading files of a release."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmpf.common.files import TEMPORARY, replacing
from cmpf.common.processes import Result, map_items
from cmpf.data.preparation.spec import Item, Step
from cmpf.errors import DatasetError
from cmpf.formats.coco_json import write_json
from cmpf.formats.image import DAMAGED
from cmpf.formats.label_map import SegmentIds, read_panoptic_ids, read_pixels


def files_by_stem(folder: Path, suffix: str, *, recursive: bool = False) -> dict[str, Path]:
    """File name without `suffix` -> path, sorted; hidden and unfinished files are skipped.

    Args:
        suffix: end of the file names, such as ".jpg" or "_leftImg8bit.png".
        recursive: also search subfolders; keys are still file names without folders.
    Raises:
        DatasetError: the folder is missing or has no such file, or two files have the same name.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder")
    files: dict[str, Path] = {}
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(folders) if recursive else []
        for name in sorted(names):
            if name.startswith(".") or not name.endswith(suffix):
                continue
            stem = name[: len(name) - len(suffix)]
            if stem in files:
                raise DatasetError(f"{Path(parent) / name}: the same name as {files[stem]}; keep one")
            files[stem] = Path(parent) / name
    if not files:
        where = "in it or below" if recursive else "in it"
        raise DatasetError(f"{folder}: no *{suffix} {where}; unpack the release again")
    return dict(sorted(files.items()))


def folder_items(source: Path, target: Path) -> list[Item]:
    """One item for each PNG in `source`, with a target of the same name in `target`.

    Raises:
        DatasetError: `source` is missing or has no PNG.
    """
    paths = files_by_stem(source, ".png").values()
    return [Item(sources=(path,), targets=(target / path.name,)) for path in paths]


def existing(paths: Iterable[Path]) -> set[Path]:
    """The paths that exist; uses one listing per folder, which is faster on a network drive."""
    candidates = set(paths)
    folders = {path.parent for path in candidates}
    return {path for folder in folders if folder.is_dir() for path in folder.iterdir()} & candidates


def link_or_copy(source: Path, target: Path) -> None:
    """Creates a hard link, or a copy where links are not possible (another file system)."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        with replacing(target) as temporary:
            shutil.copyfile(source, temporary)


def remove_unfinished(folder: Path, *, older_than: float) -> None:
    """Removes temporary files of killed runs that were last modified before `older_than` (seconds since 1970)."""
    for path in folder.glob(f"{TEMPORARY}*") if folder.is_dir() else ():
        if path.stat().st_mtime < older_than:
            path.unlink(missing_ok=True)


def read_uint8(path: Path) -> NDArray[np.int64]:
    """Reads the values (H, W) of an 8-bit label map, or its palette indices.

    Raises:
        DatasetError: the file is missing, damaged or of another type; names the file.
    """
    pixels = read_pixels(path, "label map")
    if pixels.dtype != np.uint8 or pixels.ndim != 2:
        raise DatasetError(f"{path}: {pixels.dtype} of shape {pixels.shape}; expected one channel of 8 bits")
    return pixels.astype(np.int64)


def read_channels(path: Path, count: int) -> NDArray[np.int64]:
    """Reads an image (H, W, count) whose 8-bit channels hold numbers rather than colors.

    Raises:
        DatasetError: the file is missing, damaged or of another type; names the file.
    """
    pixels = read_pixels(path, "image")
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != count:
        raise DatasetError(
            f"{path}: {pixels.dtype} of shape {pixels.shape}; expected {count} channels of 8 bits"
        )
    return pixels.astype(np.int64)


def read_expected_ids(item: Item, expected: NDArray[np.integer[Any]]) -> SegmentIds:
    """Reads the segment ids (H, W) of an item's target, and verifies that this preparation wrote them.

    Raises:
        DatasetError: the PNG is missing or damaged, or its ids are not the expected ones.
    """
    ids = read_panoptic_ids(item.target)
    if not np.array_equal(ids, expected):
        raise DatasetError(
            f"{item.target}: differs from what this command creates from {item.source}; recreate it with --overwrite, "
            "or keep it with its own JSON file"
        )
    return ids


def lookup_table(mapping: Mapping[int, int], *, default: int, size: int, dtype: Any) -> NDArray[Any]:
    """An array (size,) with mapping[i] at index i, or `default` where the mapping has no i."""
    table = np.full(size, default, dtype=dtype)
    for value, result in mapping.items():
        table[value] = result
    return table


def image_entry(name: str, size: Sequence[int]) -> dict[str, Any]:
    """An entry of `images` for NAME.jpg, with NAME as id; `size` is (H, W)."""
    return {"id": name, "file_name": f"{name}.jpg", "height": size[0], "width": size[1]}


# First entry of every JSON file written here, so that other files can be recognized by their first bytes.
_INFO = {"description": "made by cmpf datasets prepare"}
_UNFINISHED_SECONDS = 3600  # older temporary files belong to no active run


def check_replaceable(steps: Sequence[Step], *, overwrite: bool) -> None:
    """Checks that no JSON file of another program would be replaced, since it may be a download.

    Args:
        overwrite: see run_step.
    Raises:
        DatasetError: names the files.
    """
    foreign = [
        step.json
        for step in steps
        if step.json is not None and _is_foreign(step.json) and (overwrite or _pending(step, overwrite=False))
    ]
    if foreign:
        raise DatasetError(
            f"{', '.join(map(str, foreign))}: not written by this version of the command (perhaps a download), so "
            "it is kept and nothing was prepared; verify it with --check, or replace it and its PNGs with --force"
        )


def run_step(step: Step, *, jobs: int, overwrite: bool) -> list[str]:
    """Runs one step and prints a summary.

    Args:
        jobs: number of processes.
        overwrite: also convert items whose targets exist; see check_replaceable.
    Returns:
        An error message for each item that failed, with the name of a file.
    Raises:
        DatasetError: the disk is full, or the records are inconsistent.
    """
    pending = _pending(step, overwrite=overwrite) if step.convert else []
    if step.json is not None and (pending or overwrite):
        step.json.unlink(missing_ok=True)
    for folder in {target.parent for item in step.items for target in item.targets}:
        remove_unfinished(folder, older_than=time.time() - _UNFINISHED_SECONDS)
    issues: list[str] = []
    if step.convert:
        results = map_items(step.convert, pending, jobs=jobs, title=step.title, damaged=DAMAGED)
        issues = _errors(pending, results)
        made, there = len(pending) - len(issues), len(step.items) - len(pending)
        print(f"{step.title}: {made:,} created, {there:,} already existed, {len(issues):,} failed")
    if issues and step.json is not None:
        print(f"{step.json}: not written, because some of its images failed")
    return issues or _write_json(step, jobs=jobs)


def _write_json(step: Step, *, jobs: int) -> list[str]:
    """Writes the JSON file of a step after all its items are complete; returns error messages."""
    if step.json is None or step.describe is None or step.assemble is None:
        return []
    if step.json.exists():
        print(f"{step.json}: already exists")
        return []
    results = map_items(step.describe, step.items, jobs=jobs, title=step.json.name, damaged=DAMAGED)
    issues = _errors(step.items, results)
    if not issues:
        write_json(step.json, {"info": _INFO, **step.assemble([result.value for result in results])})
        print(f"{step.json}: written, {len(results):,} images")
    return issues


def _is_foreign(path: Path) -> bool:
    """Whether a JSON file exists that run_step has not written."""
    if not path.is_file():
        return False
    prefix = json.dumps({"info": _INFO}).removesuffix("}").encode()
    with path.open("rb") as file:
        return file.read(len(prefix)) != prefix


def _pending(step: Step, *, overwrite: bool) -> list[Item]:
    """Items with a missing target, or all with `overwrite`."""
    if overwrite:
        return list(step.items)
    done = existing(target for item in step.items for target in item.targets)
    return [item for item in step.items if not done.issuperset(item.targets)]


def _errors(items: Sequence[Item], results: Sequence[Result]) -> list[str]:
    """Error messages of failed items, each starting with a source file unless it names one."""
    return [
        result.error
        if any(str(source) in result.error for source in item.sources)
        else f"{item.source}: {result.error}"
        for item, result in zip(items, results, strict=True)
        if result.error
    ]
