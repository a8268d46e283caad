# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Output of cmpf datasets: tables, descriptions, and the ground truth of samples to draw."""

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
_SEEN_BY = {"published": "(as in the papers)", "words": "(by equal words)"}
_LINE_WIDTH = 100

Drawable = tuple[RGB, Sequence[TrueRegion]]


def table(*, as_json: bool) -> str:
    """All built-in datasets, and whether their files exist."""
    rows = []
    for name in dataset_names():
        dataset = locate_dataset(name)
        exists = [path.exists() for path in dataset.paths]
        state = "yes" if all(exists) else f"{sum(exists)} of {len(exists)} paths" if any(exists) else "no"
        if dataset.spec.alias_of and not as_json:
            state += f" (same as {dataset.spec.alias_of})"
        rows.append((name, dataset.spec.kind, str(dataset.vocabulary.num_classes), state))
    if as_json:
        keys = ("name", "kind", "classes", "on_disk")
        return json.dumps([dict(zip(keys, row, strict=True)) for row in rows], indent=1)
    lines = align_columns([("name", "kind", "classes", "on disk"), *rows])
    return f"root: {dataset_root()} (DETECTRON2_DATASETS)\n\n{lines}"


def vocabulary_table(*, as_json: bool) -> str:
    """The published vocabulary files, whether they exist, and their paths."""
    keys = ("name", "on_disk", "path")
    rows = [
        (key, "yes" if is_available(key) else "no", str(vocabulary_path(key))) for key in published_files()
    ]
    if as_json:
        return json.dumps([dict(zip(keys, row, strict=True)) for row in rows], indent=1)
    missing = [row for row in rows if row[1] == "no"]
    fix = f"\n\n{len(missing)} missing; download them with: {FETCH}" if missing else ""
    return align_columns([("vocabulary", "on disk", "file"), *rows]) + fix


def description_json(summary: DatasetSummary) -> str:
    """A dataset summary as one JSON object."""
    return json.dumps(dataclasses.asdict(summary), default=str, ensure_ascii=False, indent=1)


def align_columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text as aligned columns; the last column is not padded."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    lines = (
        "  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[-1]])
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def description(summary: DatasetSummary, *, against: str, classes: bool) -> str:
    """A dataset summary as text.

    Args:
        against: name of the dataset whose classes are the seen ones.
        classes: whether to list the names of the classes.
    """
    size = summary.test_size
    facts = [
        ("images", "missing or incomplete" if summary.images is None else f"{summary.images:,}"),
        ("folder", str(summary.folder)),
        ("kind", summary.kind),
        ("evaluation", ", ".join(METRICS[name] for name in summary.evaluators) or "only by the test server"),
        (
            "test size",
            f"shorter side {size[0]}, longer side at most {size[1]}"
            if size
            else "default: shorter side 800, longer side at most 1333",
        ),
        ("classes", f"{len(summary.classes)}: {len(summary.things)} things, {len(summary.stuff)} stuff"),
        (
            "seen",
            f"{len(summary.seen)} seen, {len(summary.unseen)} unseen, against {against} {_SEEN_BY[summary.seen_by]}",
        ),
    ]
    if "semantic" in summary.evaluators or "cityscapes" in summary.evaluators:
        facts.insert(5, ("ignore label", str(summary.ignore_label)))
    parts = [summary.name, align_columns([(f"  {name}", text) for name, text in facts]), _paths(summary)]
    if classes:
        groups = {
            "things": summary.things, "stuff": summary.stuff, "seen": summary.seen, "unseen": summary.unseen
        }  # fmt: skip
        parts += [_class_list(title, names) for title, names in groups.items() if names]
    if summary.issue:
        parts.append(f"issue: {summary.issue}\nfix: {summary.command}")
    return "\n".join(parts)


def _class_list(title: str, names: Sequence[str]) -> str:
    text = textwrap.fill(", ".join(names), _LINE_WIDTH, initial_indent="    ", subsequent_indent="    ")
    return f"  {title} ({len(names)})\n{text}"


def _paths(summary: DatasetSummary) -> str:
    rows = []
    for state in summary.paths:
        try:
            name = str(state.path.relative_to(summary.folder))
        except ValueError:
            name = str(state.path)
        rows.append((f"    {name}", _size(state.path) if state.found else "MISSING"))
    return "  files\n" + align_columns(rows)


def _size(path: Path) -> str:
    """The size of a file, or the number and total size of the files in a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    count = "" if path.is_file() else f"{len(files):,} files, "
    size, unit = float(sum(file.stat().st_size for file in files)), 0
    while size >= 1000 and unit < len(_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{count}{size:.{0 if unit == 0 or size >= 100 else 1}f} {_UNITS[unit]}"


def random_samples(dataset: Dataset, count: int, rng: np.random.Generator) -> list[Sample]:
    """`count` random samples in the order of the dataset; all samples if there are fewer."""
    samples = dataset.samples
    indices = rng.choice(len(samples), size=min(count, len(samples)), replace=False)
    return [samples[index] for index in sorted(indices.tolist())]


def from_files(dataset: Dataset, sample: Sample) -> Drawable:
    """The image and its ground truth as on disk, including crowds.

    Raises:
        ImageError, DatasetError: a file cannot be read.
    """
    if dataset.spec.kind == "semantic":
        regions = _semantic_regions(dataset, sample)
    elif dataset.spec.kind == "instance":
        regions = _instance_regions(sample)
    else:
        ids = read_panoptic_ids(sample["pan_seg_file_name"])
        regions = [
            TrueRegion(ids == segment["id"], segment["category_id"], bool(segment.get("iscrowd", 0)))
            for segment in sample["segments_info"]
        ]
    return read_image(sample["file_name"]), regions


def from_training(mapper: DatasetMapper, sample: Sample, rng: np.random.Generator) -> Drawable:
    """The augmented image and its targets as the training mapper returns them.

    Raises:
        ImageError, DatasetError: a file cannot be read.
    """
    mapped = mapper(sample, rng)
    image: NDArray[Any] = mapped["image"].numpy().transpose(1, 2, 0)
    masks, labels = mapped["targets"]["masks"].numpy(), mapped["targets"]["labels"].tolist()
    return image.astype(np.uint8), [
        TrueRegion(mask, label) for mask, label in zip(masks, labels, strict=True)
    ]


def _semantic_regions(dataset: Dataset, sample: Sample) -> list[TrueRegion]:
    read_labels = LabelReader(
        num_classes=dataset.vocabulary.num_classes,
        ignore_label=dataset.spec.ignore_label,
        class_of_id=dataset.spec.class_of_label,
    )
    labels = read_labels(sample["sem_seg_file_name"])
    return [TrueRegion(labels == index, index) for index in np.unique(labels).tolist() if index >= 0]


def _instance_regions(sample: Sample) -> list[TrueRegion]:
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
