# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Entry points of dataset validation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from cmpf.data.datasets.catalog import DATASETS, locate_dataset
from cmpf.data.datasets.issues import Issue, IssueKind, Issues
from cmpf.data.datasets.readers import (
    FileNames,
    read_coco_instances,
    read_coco_panoptic,
    read_lvis,
    read_semantic,
)
from cmpf.data.datasets.readers.folders import semantic_samples
from cmpf.data.datasets.spec import Dataset
from cmpf.data.datasets.validate.coco import check_instances, check_panoptic
from cmpf.data.datasets.validate.files import CheckContext
from cmpf.errors import DatasetError

READERS = (read_coco_instances, read_coco_panoptic, read_lvis, read_semantic)


@dataclass(frozen=True)
class Report:
    """Result of validating a dataset.

    name: name of the dataset.
    images: number of images in its annotations.
    issues: all issues.
    folder: folder of its images.
    notes: remarks that are not issues.
    """

    name: str
    images: int
    issues: list[Issue]
    folder: Path
    notes: tuple[str, ...] = ()

    def with_note(self, note: str) -> Report:
        """The same report with one more note."""
        return replace(self, notes=(*self.notes, note))

    def with_count(self, expected: int) -> Report:
        """The same report, with an issue if the number of images is not `expected`; 0 = any number."""
        if not expected or self.images == expected:
            return self
        message = f"{self.images:,} images found, {expected:,} expected"
        return replace(self, issues=[Issue(IssueKind.COUNT, self.folder, message), *self.issues])


def report_of(name: str, *, jobs: int = 1, progress: bool = False) -> Report:
    """Validates a dataset by opening all its files.

    Args:
        name: name of a built-in dataset, or "file:PATH".
        jobs: number of processes.
        progress: show a progress bar on a terminal.
    Returns:
        A report with all issues in the order of the files; without issues, the reader accepts the dataset as well.
    Raises:
        DatasetError: unknown name, or an invalid YAML file.
        VocabularyError: the vocabulary file is missing or invalid.
    """
    return validate(locate_dataset(name), released=name in DATASETS, jobs=jobs, progress=progress)


def validate(dataset: Dataset, *, released: bool, jobs: int = 1, progress: bool = False) -> Report:
    """As report_of, for a Dataset that need not be in the catalog.

    Args:
        released: whether the dataset is built from a known release. Then unlisted files in its folders and 16-bit label
            maps that need 8 bits are issues, and empty polygons and unlabeled images are not.
    """
    issues = Issues()
    for path in dataset.paths:
        if not path.exists():
            command = dataset.spec.command_in(dataset.folder)
            issues.add_missing_root(path, f"no such file or folder; {command}")
    context = CheckContext(dataset, issues, released=released, jobs=jobs, progress=progress)
    num_images = _check_files(context)
    if not issues.found:
        _check_reader(dataset, issues)
    return Report(dataset.name, num_images, issues.found, context.images, tuple(issues.notes))


def _check_files(context: CheckContext) -> int:
    """Checks all files and returns the number of images; 0 for a custom reader, whose files are not known."""
    spec = context.dataset.spec
    reader = spec.reader if isinstance(spec.reader, partial) else partial(spec.reader)
    function, options = reader.func, reader.keywords
    if function not in READERS:
        return 0
    if spec.kind == "semantic":
        samples = semantic_samples(context.images, context.dataset.truth["labels"], context.issues, **options)
        context.open_files(samples)
        return sum("file_name" in sample for sample in samples)
    if spec.kind == "panoptic":
        return check_panoptic(context, names=options.get("names", FileNames()))
    return check_instances(context, lvis=function is read_lvis, annotated=options.get("annotated", True))


def _check_reader(dataset: Dataset, issues: Issues) -> None:
    """Runs the reader, for errors that the other checks do not find."""
    try:
        if not dataset.samples_for(*dataset.spec.evaluators):
            issues.add(IssueKind.MISSING, dataset.folder, "no image is listed")
    except DatasetError as error:
        issues.add(IssueKind.OTHER, dataset.folder, str(error))
