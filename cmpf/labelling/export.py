# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Datasets for trainers, made of the Parquet files of cmpf label."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cmpf.common.files import write_text
from cmpf.errors import CMPFError, DatasetError
from cmpf.formats.label_map import MAX_LABEL, write_labels
from cmpf.labelling.configuration import differences
from cmpf.labelling.containers import TABLES, TARS
from cmpf.labelling.journal import Entry
from cmpf.labelling.parquet import find_parts, read_metadata, read_parquet, read_uris
from cmpf.labelling.record import PANOPTIC
from cmpf.labelling.sources import named_files
from cmpf.labelling.writers import DATASETS, FORMATS, write_dataset
from cmpf.labelling.writers.coco import Classes

PNG = "png"
EXPORTS = (*(name for name in DATASETS if name != "parquet"), PNG)


def export_labels(labels: Path, name: str, folder: Path) -> tuple[int, list[Path]]:
    """Makes a dataset of all images that could be read; one of them is in memory at a time.

    Args:
        labels: the output folder of cmpf label, or one of its files.
        name: one of EXPORTS; png: a 16-bit class map of the panoptic segments of each image, 65535 = none.
        folder: where it goes.
    Returns:
        How many images it has, and its files, without those of single images.
    Raises:
        CMPFError: the labels lack the result that the format needs. DatasetError: there are no labels, the files do not
            belong together, or one is damaged.
    """
    parts = find_parts(labels)
    about = _common_metadata(parts)
    classes = Classes.of(about)
    needed = PANOPTIC if name == PNG else FORMATS[name].tasks[0]
    if about.get("task") not in ("all", needed):
        raise CMPFError(
            f"{labels}: {name} is made of the {needed} result, and these labels are of task {about.get('task')!r}; "
            "label again with --task all"
        )
    names = _names(parts)
    if name == PNG:
        for entry in _entries(parts, names):
            _write_class_map(entry, folder)
        text = "".join(f"{words}\n" for words in about["vocabulary"])
        write_text(folder / "classes.txt", text)
        return len(names), [folder / "classes.txt"]
    return len(names), write_dataset(name, lambda: _entries(parts, names), classes, folder)


def _common_metadata(parts: Sequence[Path]) -> dict[str, Any]:
    """What made the files.

    Raises:
        DatasetError: they were made with different configurations; says what differs.
    """
    first = read_metadata(parts[0])
    for part in parts[1:]:
        other = read_metadata(part)
        different = differences({**first, "cmpf": ""}, {**other, "cmpf": ""})
        if different:
            raise DatasetError(
                f"{parts[0]} and {part} do not belong together: {different}; export them one by one"
            )
    return first


def _names(parts: Sequence[Path]) -> dict[str, tuple[str, str]]:
    """Uri of each image that could be read -> its path below the folder of all, and a name for its files."""
    uris = list(dict.fromkeys(uri for part in parts for uri in read_uris(part)))
    paths = [_path_of(uri) for uri in uris]
    root = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""
    return dict(zip(uris, named_files(paths, root), strict=True))


def _path_of(uri: str) -> str:
    """An absolute path of an image wherever it is; members of tars and rows of tables lie in a folder of its name."""
    container, member = "", ""
    if uri.startswith("tar://"):
        member, _, container = uri.removeprefix("tar://").partition("::")
    elif "#" in uri and uri.rpartition("#")[0].lower().endswith(TABLES):
        container, _, member = uri.rpartition("#")
    if container:
        ending = next((e for e in (*TARS, *TABLES) if container.lower().endswith(e)), "")
        return f"{_path_of(container[: len(container) - len(ending)])}/{member}"
    return os.path.abspath("/" + uri.partition("://")[2] if "://" in uri else uri)


def _entries(parts: Sequence[Path], names: dict[str, tuple[str, str]]) -> Iterator[Entry]:
    for part in parts:
        for record in read_parquet(part):
            if not record.error:
                file_name, name = names[record.uri]
                yield Entry(record, file_name, name)


def _write_class_map(entry: Entry, folder: Path) -> None:
    record = entry.record
    classes = np.full((record.height, record.width), MAX_LABEL, dtype=np.uint16)
    for segment in record.of_task(PANOPTIC):
        classes[segment.mask()] = segment.category_id
    write_labels(folder / f"{entry.name}.png", classes)
