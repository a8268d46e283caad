# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Writes ShapeWorld to disk as a COCO panoptic dataset that is either whole or not there.

All files are made in a working folder inside the target and moved to their places at the end; the marker
`complete.json` comes last. A killed run leaves the working folder behind; the next run starts there again.
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
from cmpf.shapeworld.categories import CATEGORIES, vocabulary_text
from cmpf.shapeworld.records import Record, coco_categories, write_record
from cmpf.shapeworld.scene import MAX_SIZE, MIN_SIZE, generate_scene

# Raised whenever equal arguments begin to give other images: old folders are not taken for new ones.
VERSION = 1
MARKER = "complete.json"
# A split's place seeds its scenes: new ones go to the end.
SPLITS = ("train", "val", "hard_val", "tune")
VOCABULARIES = {
    "vocabulary_all.txt": CATEGORIES,
    "vocabulary_seen.txt": tuple(category for category in CATEGORIES if category.seen),
}
_WORKING = ".partial"
_PARTS = (*SPLITS, *VOCABULARIES)


@dataclass(frozen=True)
class WorldSpec:
    """What makes one dataset: images in each split, the seed, and the side of the images in pixels.

    Raises:
        DatasetError: a negative count or seed, no image at all, or a size out of range.
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
        """Images of each split, empty splits left out."""
        return {split: getattr(self, split) for split in SPLITS if getattr(self, split) > 0}


@dataclass(frozen=True)
class _Task:
    folder: Path
    split: str
    number: int
    spec: WorldSpec


def scene_seed(seed: int, *, split: str, number: int) -> int:
    """The seed of an image: independent for each split and number, so that splits never share a scene."""
    sequence = np.random.SeedSequence(seed, spawn_key=(SPLITS.index(split), number))
    return int(sequence.generate_state(1, np.uint64)[0])


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


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")


def _write_split(folder: Path, split: str, spec: WorldSpec, *, jobs: int, bar: tqdm[Any]) -> None:
    """Makes one split in `folder`, which does not exist yet."""
    for part in ("images", "panoptic", "semantic"):
        (folder / part).mkdir(parents=True)
    records = []
    for record in _records([_Task(folder, split, i + 1, spec) for i in range(spec.counts[split])], jobs):
        records.append(record)
        bar.update()
    shown = VOCABULARIES["vocabulary_seen.txt" if split == "train" else "vocabulary_all.txt"]
    common: dict[str, Any] = {
        "info": {"description": f"ShapeWorld {split}", **asdict(spec)},
        "images": [record.image for record in records],
        "categories": coco_categories(shown),
    }
    instances = [entry for record in records for entry in record.instances]
    numbered = [{**entry, "id": number} for number, entry in enumerate(instances, start=1)]
    things = [category for category in common["categories"] if category["isthing"]]
    _write_json(folder / "panoptic.json", {**common, "annotations": [record.panoptic for record in records]})
    _write_json(folder / "instances.json", {**common, "categories": things, "annotations": numbered})


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _read_marker(out: Path) -> dict[str, Any] | None:
    """The marker's content; None if there is no marker, {} if it cannot be read."""
    try:
        content = json.loads((out / MARKER).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _missing(out: Path, spec: WorldSpec) -> list[str]:
    """Parts of a dataset that should be in `out` and are not."""
    expected = [out / name for name in VOCABULARIES]
    expected += [out / split / name for split in spec.counts for name in ("panoptic.json", "instances.json")]
    gone = [str(path) for path in expected if not path.is_file()]
    for split, count in spec.counts.items():
        for part in ("images", "panoptic", "semantic"):
            folder = out / split / part
            found = sum(1 for _ in folder.iterdir()) if folder.is_dir() else 0
            if found < count:
                gone.append(f"{count - found} files of {folder}")
    return gone


def _is_there(out: Path, spec: WorldSpec) -> bool:
    """True if `out` holds this very dataset, False if it can be written there.

    Raises:
        DatasetError: something else lies there, or the dataset is damaged.
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
    wanted = asdict(spec)
    found = dict.fromkeys(SPLITS, 0) | marker  # markers of before a split was added do not name it
    different = [
        f"{key} {found.get(key)}, not {wanted[key]}" for key in wanted if found.get(key) != wanted[key]
    ]
    if different:
        raise DatasetError(f"{out} holds another ShapeWorld ({'; '.join(different)}): {fix}")
    gone = _missing(out, spec)
    if gone:
        raise DatasetError(f"{out} is damaged, {', '.join(gone)} missing: {fix}")
    return True


@contextmanager
def _readable_failures(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise DatasetError(
            f"cannot write ShapeWorld to {out}: {reason}; free the disk or choose another folder"
        ) from error


def _empty_working_folder(out: Path) -> Path:
    """The working folder, empty. An old one is not removed: it says that the parts in `out` are ours."""
    working = out / _WORKING
    working.mkdir(parents=True, exist_ok=True)
    for left in working.iterdir():
        _remove(left)
    return working


def _write_parts(working: Path, spec: WorldSpec, *, jobs: int, progress: bool) -> None:
    with tqdm(total=sum(spec.counts.values()), unit="image", disable=not progress) as bar:
        for split in spec.counts:
            bar.set_description(f"ShapeWorld {split}")
            _write_split(working / split, split, spec, jobs=jobs, bar=bar)
    for name, categories in VOCABULARIES.items():
        (working / name).write_text(vocabulary_text(categories), encoding="utf-8")


def _install(working: Path, out: Path, spec: WorldSpec) -> None:
    """Moves the finished parts to their places: the old marker leaves first, the new one comes last."""
    (out / MARKER).unlink(missing_ok=True)
    for name in _PARTS:
        _remove(out / name)
        if (working / name).exists():
            (working / name).rename(out / name)
    write_text(out / MARKER, json.dumps(asdict(spec), indent=2) + "\n")
    working.rmdir()


def write_dataset(
    out: Path, spec: WorldSpec, *, jobs: int = 1, force: bool = False, progress: bool = True
) -> bool:
    """Writes the dataset, or finds that it is already there.

    Args:
        out: folder, made if needed. jobs: processes; the files do not depend on it.
        force: replace another ShapeWorld in `out` (its files only). progress: show a bar on stderr.
    Returns:
        True if written, False if `out` already held the whole dataset.
    Raises:
        DatasetError: `out` holds something else, or cannot be written; the message names the fix.
    """
    if jobs < 1:
        raise DatasetError(f"jobs = {jobs}: must be 1 or more")
    with _readable_failures(out):
        replaceable = force and _read_marker(out) is not None
        if not replaceable and _is_there(out, spec):
            return False
        working = _empty_working_folder(out)
        try:
            _write_parts(working, spec, jobs=jobs, progress=progress)
        except BaseException:
            shutil.rmtree(working, ignore_errors=True)
            raise
        _install(working, out, spec)
    return True
