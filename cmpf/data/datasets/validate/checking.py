# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Checks a dataset of any kind; here also folders of images and label maps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from cmpf.common.files import IMAGE_SUFFIXES
from cmpf.data.datasets.catalog import DATASETS, locate_dataset
from cmpf.data.datasets.issues import Issue, IssueKind, Issues
from cmpf.data.datasets.readers import (
    FileNames,
    read_coco_instances,
    read_coco_panoptic,
    read_lvis,
    read_semantic,
)
from cmpf.data.datasets.readers.folders import find_images
from cmpf.data.datasets.spec import Dataset
from cmpf.data.datasets.validate.coco import check_instances, check_panoptic
from cmpf.data.datasets.validate.files import Files, LabelRules, Run
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
    folder = dataset.folder / dataset.spec.images
    return Report(dataset.name, images, issues.found, folder, tuple(issues.notes))


def _check(run: Run) -> int:
    spec = run.dataset.spec
    function, options = _parts(spec.reader)
    if function not in READERS:  # nobody else knows the files of a reader of the user's own
        return 0
    if spec.kind == "semantic":
        return _check_semantic(run, **options)
    if spec.kind == "panoptic":
        return check_panoptic(run, names=options.get("names", FileNames()))
    return check_instances(run, lvis=function is read_lvis, annotated=options.get("annotated", True))


def _parts(reader: Any) -> tuple[Any, dict[str, Any]]:
    """A reader's function, and how it finds the files of its dataset."""
    if isinstance(reader, partial):
        return reader.func, dict(reader.keywords)
    return reader, {}


def _read(dataset: Dataset, issues: Issues) -> None:
    """What the reader refuses and no check has found, so that the check never promises too much."""
    try:
        if not dataset.samples_for(*dataset.spec.evaluators):
            issues.add(IssueKind.MISSING, dataset.folder, "no image is listed")
    except DatasetError as error:
        issues.add(IssueKind.OTHER, dataset.folder, str(error))


def _check_semantic(
    run: Run, *, image_suffix: str = "", label_suffix: str = "", labeled_only: bool = False
) -> int:
    """Images and label maps of two folders; see read_semantic."""
    folder, spec, issues = run.dataset.folder, run.dataset.spec, run.issues
    images, labels = folder / spec.images, folder / spec.truth["labels"]
    if labels.is_file():
        issues.add(IssueKind.JSON_KIND, labels, "is a file; a semantic dataset has a folder of label maps")
        return 0
    found: list[dict[str, Path]] = []
    for place, suffix in ((images, image_suffix), (labels, label_suffix)):
        files = find_images(place, suffix=suffix, issues=issues)
        if not files and place.is_dir():
            wanted = ", ".join(f"*{suffix}{ending}" for ending in IMAGE_SUFFIXES)
            issues.add(IssueKind.MISSING, place, f"no images in it (looked for {wanted})")
        found.append(files)
    image_files, truths = found
    names = sorted(image_files.keys() | truths.keys())
    items = [Files(image=image_files.get(name), labels=truths.get(name)) for name in names]
    for name, issues_of_files in zip(names, run.examine(items, LabelRules.of(run)), strict=True):
        issues.merge(issues_of_files)
        if name not in truths and truths and not labeled_only:
            message = f"has no labels {name}{label_suffix}.* in {labels}"
            issues.add(IssueKind.UNPAIRED, image_files[name], message)
        if name not in image_files and image_files:
            message = f"has no image {name}{image_suffix}.* in {images}"
            issues.add(IssueKind.UNPAIRED, truths[name], message)
    return len(image_files)
