# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Checks a dataset of any kind."""

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
from cmpf.data.datasets.validate.files import Run
from cmpf.errors import DatasetError

READERS = (read_coco_instances, read_coco_panoptic, read_lvis, read_semantic)


@dataclass(frozen=True)
class Report:
    """What a check found.

    name: of the dataset. images: how many it lists. issues: what is wrong. folder: of its images.
    notes: what is worth saying and no issue.
    """

    name: str
    images: int
    issues: list[Issue]
    folder: Path
    notes: tuple[str, ...] = ()

    def with_note(self, note: str) -> Report:
        """The same, with one more note."""
        return replace(self, notes=(*self.notes, note))

    def with_count(self, expected: int) -> Report:
        """The same, with an issue if there are other than `expected` images; 0 = any number."""
        if not expected or self.images == expected:
            return self
        message = f"{self.images:,} images found, {expected:,} expected"
        count = Issue(IssueKind.COUNT, self.folder, message)
        return replace(self, issues=[count, *self.issues])


def report_of(name: str, *, jobs: int = 1, progress: bool = False) -> Report:
    """Opens every file of a dataset and tells what is wrong with it.

    Args:
        name: of a dataset of the table, or "file:PATH".
        jobs: processes.
        progress: show a bar where there is a terminal.
    Returns:
        With all issues, in the order of the files; none means that the reader takes the dataset, too.
    Raises:
        DatasetError: unknown name, or the YAML file itself is wrong.
        VocabularyError: the vocabulary file is missing or wrong.
    """
    return validate(locate_dataset(name), released=name in DATASETS, jobs=jobs, progress=progress)


def validate(dataset: Dataset, *, released: bool, jobs: int = 1, progress: bool = False) -> Report:
    """As report_of, for a dataset that need not have a name.

    Args:
        released: it is one of the table, made of a known release: every file of its folders belongs to it, label maps
            have as many bits as their values need, and objects or images without a pixel are the release's own affair.
    """
    issues = Issues()
    for path in dataset.paths:
        if not path.exists():
            command = dataset.spec.command_in(dataset.folder)
            issues.add_absent(path, f"no such file or folder; {command}")
    run = Run(dataset, issues, released=released, jobs=jobs, progress=progress)
    images = _check(run)
    if not issues.found:
        _read(dataset, issues)
    return Report(dataset.name, images, issues.found, run.images, tuple(issues.notes))


def _check(run: Run) -> int:
    spec = run.dataset.spec
    reader = spec.reader if isinstance(spec.reader, partial) else partial(spec.reader)
    function, options = reader.func, reader.keywords
    if function not in READERS:  # nobody else knows the files of a reader of the user's own
        return 0
    if spec.kind == "semantic":
        samples = semantic_samples(run.images, run.dataset.truth["labels"], run.issues, **options)
        run.open_files(samples)
        return sum("file_name" in sample for sample in samples)
    if spec.kind == "panoptic":
        return check_panoptic(run, names=options.get("names", FileNames()))
    return check_instances(run, lvis=function is read_lvis, annotated=options.get("annotated", True))


def _read(dataset: Dataset, issues: Issues) -> None:
    """What the reader refuses and no check has found, so that the check never promises too much."""
    try:
        if not dataset.samples_for(*dataset.spec.evaluators):
            issues.add(IssueKind.MISSING, dataset.folder, "no image is listed")
    except DatasetError as error:
        issues.add(IssueKind.OTHER, dataset.folder, str(error))
