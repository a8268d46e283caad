# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Files of a release: listings, items, links, entries of the JSON files, and making all: what is there is kept."""

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


def stems(folder: Path, ending: str, *, recursive: bool = False) -> dict[str, Path]:
    """Files of a folder by their name without `ending`, sorted; hidden and unfinished files are left out.

    Args:
        ending: such as ".jpg" or "_leftImg8bit.png".
        recursive: also in folders below; the key is then still the file's name alone.
    Raises:
        DatasetError: the folder is missing, holds no such file, or two files have one name.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder")
    found: dict[str, Path] = {}
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(folders) if recursive else []
        for name in sorted(names):
            if name.startswith(".") or not name.endswith(ending):
                continue
            stem = name[: len(name) - len(ending)]
            if stem in found:
                raise DatasetError(f"{Path(place) / name}: the same name as {found[stem]}; keep one")
            found[stem] = Path(place) / name
    if not found:
        where = "in it or below" if recursive else "in it"
        raise DatasetError(f"{folder}: no *{ending} {where}; unpack the release again")
    return dict(sorted(found.items()))


def folder_items(source: Path, target: Path) -> list[Item]:
    """One item for each PNG of `source`, for a PNG of the same name in `target`.

    Raises:
        DatasetError: no such folder, or no such file in it.
    """
    return [Item(sources=(path,), targets=(target / path.name,)) for path in stems(source, ".png").values()]


def present(paths: Iterable[Path]) -> set[Path]:
    """Those that are there; one listing of a folder is quicker than many look-ups on a network drive."""
    wanted = set(paths)
    folders = {path.parent for path in wanted}
    return {path for folder in folders if folder.is_dir() for path in folder.iterdir()} & wanted


def place(source: Path, target: Path) -> None:
    """Puts a file at a second place: as a hard link, which takes no room, or as a copy on another disk."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        with replacing(target) as temporary:
            shutil.copyfile(source, temporary)


def sweep_unfinished(folder: Path, *, older_than: float) -> None:
    """Removes what a killed run left in a folder, if last written before `older_than` (seconds since 1970)."""
    for path in folder.glob(f"{TEMPORARY}*") if folder.is_dir() else ():
        if path.stat().st_mtime < older_than:
            path.unlink(missing_ok=True)


def read_bytes(path: Path) -> NDArray[np.int64]:
    """(H, W) values of a label map of 8 bits, or its palette indices.

    Raises:
        DatasetError: missing, damaged, or of another kind; names it.
    """
    pixels = read_pixels(path, "label map")
    if pixels.dtype != np.uint8 or pixels.ndim != 2:
        raise DatasetError(f"{path}: {pixels.dtype} of shape {pixels.shape}; expected one channel of 8 bits")
    return pixels.astype(np.int64)


def read_channels(path: Path, count: int) -> NDArray[np.int64]:
    """(H, W, count) values of an image whose channels are 8-bit numbers, not colors.

    Raises:
        DatasetError: missing, damaged, or of another kind; names it.
    """
    pixels = read_pixels(path, "image")
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != count:
        raise DatasetError(
            f"{path}: {pixels.dtype} of shape {pixels.shape}; expected {count} channels of 8 bits"
        )
    return pixels.astype(np.int64)


def read_own_ids(item: Item, expected: NDArray[np.integer[Any]]) -> SegmentIds:
    """(H, W) segment ids of the panoptic PNG that is the target of an item.

    Raises:
        DatasetError: missing or damaged; or not the expected ids, so that another program made it, by other rules.
    """
    ids = read_panoptic_ids(item.target)
    if not np.array_equal(ids, expected):
        raise DatasetError(
            f"{item.target}: not what this command makes of {item.source}; make it again with --overwrite, or keep it "
            "with the JSON file that belongs to it"
        )
    return ids


def lookup_table(mapping: Mapping[int, int], *, default: int, size: int, dtype: Any) -> NDArray[Any]:
    """(size,) array: value -> mapping[value], or `default` where it has none."""
    table = np.full(size, default, dtype=dtype)
    for value, result in mapping.items():
        table[value] = result
    return table


def image_entry(name: str, size: Sequence[int]) -> dict[str, Any]:
    """An entry of `images` whose id is the name of a JPEG; `size` = (H, W)."""
    return {"id": name, "file_name": f"{name}.jpg", "height": size[0], "width": size[1]}


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
