# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Writes ShapeWorld to disk as a COCO panoptic dataset, atomically.

All files are created in a working folder inside the target and moved at the end; the marker `complete.json` is written
last. A killed run leaves the working folder behind, and the next run starts over in it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from cmpf.common.files import write_text
from cmpf.common.processes import process_pool
from cmpf.errors import DatasetError
from cmpf.formats.coco_json import write_json
from cmpf.shapeworld.categories import CATEGORIES, vocabulary_text
from cmpf.shapeworld.records import Record, coco_categories, write_record
from cmpf.shapeworld.scene import MAX_SIZE, MIN_SIZE, generate_scene

# Increase when equal arguments give other images than before, so that existing folders are not reused.
VERSION = 1
MARKER = "complete.json"
# The index of a split seeds its scenes, so new splits must be appended.
SPLITS = ("train", "val", "hard_val", "tune")
VOCABULARIES = {
    "vocabulary_all.txt": CATEGORIES,
    "vocabulary_seen.txt": tuple(category for category in CATEGORIES if category.seen),
}
_WORKING = ".partial"
_PARTS = (*SPLITS, *VOCABULARIES)


@dataclass(frozen=True)
class WorldSpec:
    """Parameters of a ShapeWorld dataset: number of images in each split, seed, and image size in pixels.

    Raises:
        DatasetError: a negative count or seed, no images, or a size out of range.
    """

    train: int
    val: int
    hard_val: int = 0
    tune: int = 0
    seed: int = 0
    size: int = 128
    version: int = VERSION

    def __post_init__(self) -> None:
        for name in (*SPLITS, "seed"):
            if getattr(self, name) < 0:
                raise DatasetError(f"{name} = {getattr(self, name)}: must be 0 or more")
        if sum(self.counts.values()) == 0:
            raise DatasetError(
                f"{', '.join(SPLITS[:-1])} and {SPLITS[-1]} are all 0: ask for at least one image"
            )
        if not MIN_SIZE <= self.size <= MAX_SIZE:
            raise DatasetError(f"size = {self.size}: must be between {MIN_SIZE} and {MAX_SIZE} pixels")

    @property
    def counts(self) -> dict[str, int]:
        """Number of images of each non-empty split."""
        return {split: getattr(self, split) for split in SPLITS if getattr(self, split) > 0}


def write_dataset(
    out: Path, spec: WorldSpec, *, jobs: int = 1, force: bool = False, progress: bool = True
) -> bool:
    """Writes the dataset, unless it already exists.

    Args:
        out: target folder, created if needed.
        spec: parameters of the dataset.
        jobs: number of processes; the files do not depend on it.
        force: replace the files of another ShapeWorld dataset in `out`.
        progress: show a progress bar on stderr.
    Returns:
        True if it was written, False if `out` already held the complete dataset.
    Raises:
        DatasetError: `out` holds something else, or cannot be written; the message names the fix.
    """
    if jobs < 1:
        raise DatasetError(f"jobs = {jobs}: must be 1 or more")
    with _dataset_errors(out):
        replaceable = force and _read_marker(out) is not None
        if not replaceable and _is_complete(out, spec):
            return False
        working = _empty_working_folder(out)
        try:
            _write_parts(working, spec, jobs=jobs, progress=progress)
        except BaseException:
            shutil.rmtree(working, ignore_errors=True)
            raise
        _install(working, out, spec)
    return True


def scene_seed(seed: int, *, split: str, number: int) -> int:
    """The seed of an image, from independent streams for each split, so that splits share no scene."""
    sequence = np.random.SeedSequence(seed, spawn_key=(SPLITS.index(split), number))
    return int(sequence.generate_state(1, np.uint64)[0])


@dataclass(frozen=True)
class _Task:
    folder: Path
    split: str
    number: int
    spec: WorldSpec


def _write_scene(task: _Task) -> Record:
    seed = scene_seed(task.spec.seed, split=task.split, number=task.number)
    scene = generate_scene(
        seed, size=task.spec.size, seen_only=task.split == "train", hard=task.split == "hard_val"
    )
    return write_record(scene, task.folder, image_id=task.number)


def _records(tasks: list[_Task], jobs: int) -> Iterator[Record]:
    if jobs == 1:
        yield from map(_write_scene, tasks)
        return
    try:
        with process_pool(jobs) as pool:
            yield from pool.map(_write_scene, tasks, chunksize=8)
    except BrokenProcessPool as error:
        raise DatasetError(
            f"one of {jobs} processes was killed, perhaps for memory: use fewer jobs"
        ) from error


def _write_split(folder: Path, split: str, spec: WorldSpec, *, jobs: int, bar: tqdm[Any]) -> None:
    """Writes one split to `folder`, which must not exist."""
    for name in ("images", "panoptic", "semantic"):
        (folder / name).mkdir(parents=True)
    records = []
    for record in _records([_Task(folder, split, i + 1, spec) for i in range(spec.counts[split])], jobs):
        records.append(record)
        bar.update()
    categories = VOCABULARIES["vocabulary_seen.txt" if split == "train" else "vocabulary_all.txt"]
    common: dict[str, Any] = {
        "info": {"description": f"ShapeWorld {split}", **asdict(spec)},
        "images": [record.image for record in records],
        "categories": coco_categories(categories),
    }
    instances = [entry for record in records for entry in record.instances]
    numbered = [{**entry, "id": number} for number, entry in enumerate(instances, start=1)]
    things = [category for category in common["categories"] if category["isthing"]]
    write_json(folder / "panoptic.json", {**common, "annotations": [record.panoptic for record in records]})
    write_json(folder / "instances.json", {**common, "categories": things, "annotations": numbered})


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _read_marker(out: Path) -> dict[str, Any] | None:
    """The content of the marker; None if it does not exist, {} if it is invalid."""
    try:
        content = json.loads((out / MARKER).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _missing(out: Path, spec: WorldSpec) -> list[str]:
    """Files of the dataset that do not exist in `out`."""
    expected = [out / name for name in VOCABULARIES]
    expected += [out / split / name for split in spec.counts for name in ("panoptic.json", "instances.json")]
    missing = [str(path) for path in expected if not path.is_file()]
    for split, count in spec.counts.items():
        for name in ("images", "panoptic", "semantic"):
            folder = out / split / name
            present = sum(1 for _ in folder.iterdir()) if folder.is_dir() else 0
            if present < count:
                missing.append(f"{count - present} files of {folder}")
    return missing


def _is_complete(out: Path, spec: WorldSpec) -> bool:
    """True if `out` holds exactly this dataset, False if it can be written there.

    Raises:
        DatasetError: `out` holds something else, or the dataset is damaged.
    """
    marker = _read_marker(out)
    fix = "add --force to replace it, or choose another folder"
    if marker is None:
        foreign = [name for name in _PARTS if (out / name).exists()]
        if foreign and not (out / _WORKING).is_dir():
            raise DatasetError(
                f"{out} already holds {', '.join(foreign)}, not written by ShapeWorld: choose another folder"
            )
        return False
    if not marker:
        raise DatasetError(f"{out / MARKER} cannot be read: {fix}")
    requested = asdict(spec)
    written = dict.fromkeys(SPLITS, 0) | marker  # older markers lack splits that were added later
    different = [
        f"{key} {written.get(key)}, not {value}"
        for key, value in requested.items()
        if written.get(key) != value
    ]
    if different:
        raise DatasetError(f"{out} holds another ShapeWorld ({'; '.join(different)}): {fix}")
    missing = _missing(out, spec)
    if missing:
        raise DatasetError(f"{out} is damaged, {', '.join(missing)} missing: {fix}")
    return True


@contextmanager
def _dataset_errors(out: Path) -> Iterator[None]:
    """Turns an OSError into a DatasetError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise DatasetError(
            f"cannot write ShapeWorld to {out}: {reason}; free the disk or choose another folder"
        ) from error


def _empty_working_folder(out: Path) -> Path:
    """Creates or empties the working folder. It is not removed, since it marks the files in `out` as ShapeWorld's."""
    working = out / _WORKING
    working.mkdir(parents=True, exist_ok=True)
    for leftover in working.iterdir():
        _remove(leftover)
    return working


def _write_parts(working: Path, spec: WorldSpec, *, jobs: int, progress: bool) -> None:
    with tqdm(total=sum(spec.counts.values()), unit="image", disable=not progress) as bar:
        for split in spec.counts:
            bar.set_description(f"ShapeWorld {split}")
            _write_split(working / split, split, spec, jobs=jobs, bar=bar)
    for name, categories in VOCABULARIES.items():
        (working / name).write_text(vocabulary_text(categories), encoding="utf-8")


def _install(working: Path, out: Path, spec: WorldSpec) -> None:
    """Moves the finished files to `out`; removes the old marker first and writes the new one last."""
    (out / MARKER).unlink(missing_ok=True)
    for name in _PARTS:
        _remove(out / name)
        if (working / name).exists():
            (working / name).rename(out / name)
    write_text(out / MARKER, json.dumps(asdict(spec), indent=2) + "\n")
    working.rmdir()
