# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Converts the Parquet files of cmpf label to datasets for training."""

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
from cmpf.labelling.sources import unique_names
from cmpf.labelling.writers import DATASETS, FORMATS, write_dataset

PNG = "png"
EXPORTS = (*(name for name in DATASETS if name != "parquet"), PNG)


def export_labels(labels: Path, name: str, folder: Path) -> tuple[int, list[Path]]:
    """Writes a dataset of all images without an error; holds one row group in memory at a time.

    Args:
        labels: the output folder of cmpf label, or one of its files.
        name: one of EXPORTS; "png" = a 16-bit semantic map of the panoptic segments of each image, 65535 = no class.
        folder: output folder.
    Returns:
        The number of images, and the dataset files without those of single images.
    Raises:
        CMPFError: the labels lack the result that the format needs.
        DatasetError: there are no labels, the files are of different configurations, or one is damaged.
    """
    parts = find_parts(labels)
    metadata = _common_metadata(parts)
    needed = PANOPTIC if name == PNG else FORMATS[name].tasks[0]
    task = metadata.get("task", "")  # of cmpf predict: a list
    if task != "all" and needed not in task:
        raise CMPFError(
            f"{labels}: {name} is made of the {needed} result, and these labels are of task {task!r}; "
            "label again with --task all"
        )
    names = _unique_names(parts)
    if name == PNG:
        for entry in _entries(parts, names):
            _write_semantic_map(entry, folder)
        text = "".join(f"{synonyms}\n" for synonyms in metadata["vocabulary"])
        write_text(folder / "classes.txt", text)
        return len(names), [folder / "classes.txt"]
    return len(names), write_dataset(name, lambda: _entries(parts, names), metadata, folder)


def _common_metadata(parts: Sequence[Path]) -> dict[str, Any]:
    """The configuration of all files.

    Raises:
        DatasetError: the files have different configurations; says what differs.
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


def _unique_names(parts: Sequence[Path]) -> dict[str, tuple[str, str]]:
    """URI -> (file_name, name) of each image without an error; see cmpf.labelling.sources.Source."""
    uris = list(dict.fromkeys(uri for part in parts for uri in read_uris(part)))
    paths = [_to_path(uri) for uri in uris]
    root = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""
    return dict(zip(uris, unique_names(paths, root), strict=True))


def _to_path(uri: str) -> str:
    """Maps any URI to an absolute path; containers become folders without their suffix."""
    container, member = "", ""
    if uri.startswith("tar://"):
        member, _, container = uri.removeprefix("tar://").partition("::")
    elif "#" in uri and uri.rpartition("#")[0].lower().endswith(TABLES):
        container, _, member = uri.rpartition("#")
    if container:
        suffix = next((suffix for suffix in (*TARS, *TABLES) if container.lower().endswith(suffix)), "")
        return f"{_to_path(container[: len(container) - len(suffix)])}/{member}"
    return os.path.abspath("/" + uri.partition("://")[2] if "://" in uri else uri)


def _entries(parts: Sequence[Path], names: dict[str, tuple[str, str]]) -> Iterator[Entry]:
    for part in parts:
        for record in read_parquet(part):
            if not record.error:
                file_name, name = names[record.uri]
                yield Entry(record, file_name, name)


def _write_semantic_map(entry: Entry, folder: Path) -> None:
    record = entry.record
    classes = np.full((record.height, record.width), MAX_LABEL, dtype=np.uint16)
    for segment in record.of_task(PANOPTIC):
        classes[segment.mask()] = segment.category_id
    write_labels(folder / f"{entry.name}.png", classes)
