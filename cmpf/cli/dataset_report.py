# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What `cmpf datasets` shows: tables, descriptions, and the ground truth of samples as files or training have it."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmpf.data.datasets.catalog import DatasetSummary, dataset_names, dataset_root, locate_dataset
from cmpf.data.datasets.published import published_files
from cmpf.data.datasets.spec import Dataset
from cmpf.data.mapper import DatasetMapper
from cmpf.formats.image import RGB, read_image
from cmpf.formats.label_map import LabelReader, read_panoptic_ids
from cmpf.formats.masks import decode_mask
from cmpf.types import Sample
from cmpf.visualization.ground_truth import TrueRegion
from cmpf.weights.vocabularies import FETCH, is_available, vocabulary_path

METRICS = {
    "panoptic": "PQ",
    "instance": "AP",
    "semantic": "mIoU",
    "lvis": "AP, APr, APc, APf",
    "cityscapes": "AP and mIoU by the official scripts",
}
_UNITS = ("bytes", "KB", "MB", "GB", "TB")
_BY = {"published": "(as in the papers)", "words": "(by equal words)"}
_WIDTH = 100


def table(*, as_json: bool) -> str:
    """All datasets of the table, and whether their files are there."""
    rows = []
    for name in dataset_names():
        dataset = locate_dataset(name)
        found = [path.exists() for path in dataset.paths]
        state = "yes" if all(found) else f"{sum(found)} of {len(found)} paths" if any(found) else "no"
        if dataset.spec.alias_of and not as_json:
            state += f" (the same as {dataset.spec.alias_of})"
        rows.append((name, dataset.spec.kind, str(dataset.vocabulary.num_classes), state))
    if as_json:
        keys = ("name", "kind", "classes", "on_disk")
        return json.dumps([dict(zip(keys, row, strict=True)) for row in rows], indent=1)
    lines = columns([("name", "kind", "classes", "on disk"), *rows])
    return f"root: {dataset_root()} (DETECTRON2_DATASETS)\n\n{lines}"


def vocabulary_table(*, as_json: bool) -> str:
    """The published vocabulary files, where they lie, and whether they are there."""
    keys = ("name", "on_disk", "path")
    rows = [
        (key, "yes" if is_available(key) else "no", str(vocabulary_path(key))) for key in published_files()
    ]
    if as_json:
        return json.dumps([dict(zip(keys, row, strict=True)) for row in rows], indent=1)
    missing = [row for row in rows if row[1] == "no"]
    fix = f"\n\n{len(missing)} are not there, get them with: {FETCH}" if missing else ""
    return columns([("words of", "there", "file"), *rows]) + fix


def description_json(summary: DatasetSummary) -> str:
    """All that is known of a dataset, as one JSON object."""
    return json.dumps(dataclasses.asdict(summary), default=str, ensure_ascii=False, indent=1)


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text, aligned; the last column is free."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]) - 1)]
    lines = (
        "  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[-1]])
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def description(summary: DatasetSummary, *, against: str, classes: bool) -> str:
    """A dataset at a glance.

    Args:
        against: name of the dataset whose classes are the seen ones.
        classes: list the names.
    """
    size = summary.test_size
    facts = [
        ("images", "not there, or not whole" if summary.images is None else f"{summary.images:,}"),
        ("folder", str(summary.folder)),
        ("kind", summary.kind),
        ("evaluation", ", ".join(METRICS[name] for name in summary.evaluators) or "by a test server alone"),
        (
            "test size",
            f"shorter side {size[0]}, longer side at most {size[1]}"
            if size
            else "the usual: shorter side 800, longer side at most 1333",
        ),
        ("classes", f"{len(summary.classes)}: {len(summary.things)} things, {len(summary.stuff)} stuff"),
        (
            "seen",
            f"{len(summary.seen)} seen, {len(summary.unseen)} unseen, against {against} {_BY[summary.seen_by]}",
        ),
    ]
    if "semantic" in summary.evaluators or "cityscapes" in summary.evaluators:
        facts.insert(5, ("ignore label", str(summary.ignore_label)))
    parts = [summary.name, columns([(f"  {name}", text) for name, text in facts]), _paths(summary)]
    if classes:
        parts += [_listed(title, names) for title, names in _groups(summary) if names]
    if summary.issue:
        parts.append(f"issue: {summary.issue}\nfix: {summary.command}")
    return "\n".join(parts)


def _groups(summary: DatasetSummary) -> list[tuple[str, tuple[str, ...]]]:
    return [
        ("things", summary.things),
        ("stuff", summary.stuff),
        ("seen", summary.seen),
        ("unseen", summary.unseen),
    ]


def _listed(title: str, names: Sequence[str]) -> str:
    text = textwrap.fill(", ".join(names), _WIDTH, initial_indent="    ", subsequent_indent="    ")
    return f"  {title} ({len(names)})\n{text}"


def _paths(summary: DatasetSummary) -> str:
    rows = []
    for state in summary.paths:
        try:
            name = str(state.path.relative_to(summary.folder))
        except ValueError:
            name = str(state.path)
        rows.append((f"    {name}", _size(state.path) if state.found else "MISSING"))
    return "  files\n" + columns(rows)


def _size(path: Path) -> str:
    """Bytes of a file, or of all files below a folder and how many they are."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    count = "" if path.is_file() else f"{len(files):,} files, "
    size, unit = float(sum(file.stat().st_size for file in files)), 0
    while size >= 1000 and unit < len(_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{count}{size:.{0 if unit == 0 or size >= 100 else 1}f} {_UNITS[unit]}"


Drawable = tuple[RGB, Sequence[TrueRegion]]


def chosen_samples(dataset: Dataset, count: int, rng: np.random.Generator) -> list[Sample]:
    """So many samples at random, in the order of the dataset; all if there are fewer."""
    samples = dataset.samples
    places = rng.choice(len(samples), size=min(count, len(samples)), replace=False)
    return [samples[place] for place in sorted(places.tolist())]


def from_files(dataset: Dataset, sample: Sample) -> Drawable:
    """Image and ground truth as they are on disk, crowds among it.

    Raises:
        ImageError, DatasetError: a file cannot be read.
    """
    if dataset.spec.kind == "semantic":
        regions = _classes(dataset, sample)
    elif dataset.spec.kind == "instance":
        regions = _objects(sample)
    else:
        ids = read_panoptic_ids(sample["pan_seg_file_name"])
        regions = [
            TrueRegion(ids == segment["id"], segment["category_id"], bool(segment.get("iscrowd", 0)))
            for segment in sample["segments_info"]
        ]
    return read_image(sample["file_name"]), regions


def from_training(mapper: DatasetMapper, sample: Sample, rng: np.random.Generator) -> Drawable:
    """Image and targets as the training mapper gives them.

    Raises:
        ImageError, DatasetError: a file cannot be read.
    """
    seen = mapper(sample, rng)
    image: NDArray[Any] = seen["image"].numpy().transpose(1, 2, 0)
    masks, labels = seen["targets"]["masks"].numpy(), seen["targets"]["labels"].tolist()
    return image.astype(np.uint8), [
        TrueRegion(mask, label) for mask, label in zip(masks, labels, strict=True)
    ]


def _classes(dataset: Dataset, sample: Sample) -> list[TrueRegion]:
    read = LabelReader(
        num_classes=dataset.vocabulary.num_classes,
        ignore_label=dataset.spec.ignore_label,
        class_of_id=dataset.spec.class_of_label,
    )
    classes = read(sample["sem_seg_file_name"])
    return [TrueRegion(classes == index, index) for index in np.unique(classes).tolist() if index >= 0]


def _objects(sample: Sample) -> list[TrueRegion]:
    regions = []
    for annotation in sample["annotations"]:
        mask = decode_mask(
            annotation["segmentation"],
            height=sample["height"],
            width=sample["width"],
            where=f"{sample['file_name']}: the mask of annotation {annotation.get('id', '?')}",
        )
        regions.append(TrueRegion(mask, annotation["category_id"], bool(annotation.get("iscrowd", 0))))
    return regions
