# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Validates a dataset: its annotations, all files that they name, and the reader.

CocoFile reports issues of a JSON file itself; the files of the samples are opened in cmpf.data.datasets.validate.files.
"""

from __future__ import annotations

from collections.abc import Mapping
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
from cmpf.data.datasets.readers.coco_entries import CocoFile, Samples
from cmpf.data.datasets.readers.folders import find_images, semantic_samples
from cmpf.data.datasets.spec import Dataset
from cmpf.data.datasets.validate.files import CheckContext
from cmpf.data.datasets.validate.segments import EXACT_STUFF, HIDDEN_STUFF
from cmpf.errors import DatasetError
from cmpf.formats.coco_json import LVIS_FREQUENCIES

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
        return _check_panoptic(context, names=options.get("names", FileNames()))
    return _check_instances(context, lvis=function is read_lvis, annotated=options.get("annotated", True))


def _check_panoptic(context: CheckContext, *, names: FileNames) -> int:
    """Checks a panoptic JSON file and all images, panoptic PNGs and label maps that it names.

    Args:
        names: see read_coco_panoptic.
    Returns:
        The number of images.
    """
    images, truth, issues = context.images, context.dataset.truth, context.issues
    file = _open_json(context, truth["annotations"], "panoptic")
    samples = file.panoptic_samples(images, truth["panoptic"], truth.get("semantic"), names)
    if "instances" in truth and samples:
        _open_json(context, truth["instances"], "instances").add_annotations_to(samples)
    folders = {"file_name": images, "pan_seg_file_name": truth["panoptic"]}
    if "semantic" in truth and names == FileNames():  # otherwise the folder also holds other files
        folders["sem_seg_file_name"] = truth["semantic"]
    _open_files(context, samples, file.source, truth.get("instances"), folders)
    if context.dataset.spec.hidden_stuff and HIDDEN_STUFF not in issues.notes:
        issues.notes[EXACT_STUFF] = None
    return len(samples)


def _check_instances(context: CheckContext, *, lvis: bool, annotated: bool = True) -> int:
    """Checks an instances JSON file and all images and masks in it.

    Args:
        lvis: whether it is an LVIS file, with more fields and its own image names.
        annotated: False = it lists the images of a test split without annotations.
    Returns:
        The number of images.
    """
    file = _open_json(
        context, context.dataset.truth["annotations"], "instances" if annotated else "test images"
    )
    samples = file.instance_samples(context.images, lvis=lvis, annotated=annotated)
    if lvis and annotated and samples:
        _check_frequencies(file, context.dataset.vocabulary.num_classes)
    _open_files(context, samples, file.source, file.source, {} if lvis else {"file_name": context.images})
    return len(samples)


def _open_json(context: CheckContext, source: Path, wanted: str) -> CocoFile:
    things_only = context.released and wanted == "instances"
    spec, vocabulary = context.dataset.spec, context.dataset.vocabulary
    return CocoFile(source, wanted, vocabulary, spec.class_of_id, context.issues, things_only=things_only)


def _check_frequencies(file: CocoFile, num_classes: int) -> None:
    """LVIS's AP needs all categories with their frequencies."""
    categories = [entry for entry in file.content["categories"] if isinstance(entry, Mapping)]
    if len(categories) != num_classes:
        message = f"{len(categories):,} categories; expected {num_classes:,}"
        file.issues.add(IssueKind.FORM, file.source, message)
    for entry in categories:
        if entry.get("frequency") not in LVIS_FREQUENCIES:
            message = f"category {entry.get('id')} has no frequency r, c or f"
            file.issues.add(IssueKind.FORM, file.source, message)


def _open_files(
    context: CheckContext,
    samples: Samples,
    source: Path,
    instances: Path | None,
    folders: Mapping[str, Path],
) -> None:
    """Opens the files of all samples, and reports other files in the folders of a released dataset.

    Args:
        source, instances: the JSON files with the images and with the instance masks.
        folders: key of a sample -> folder of these files.
    """
    context.open_files(list(samples.values()), source=source, instances=instances)
    for key, folder in folders.items() if context.released else ():
        listed = {sample.get(key) for sample in samples.values()}
        for path in find_images(folder, suffix="", issues=Issues()).values():
            if str(path) not in listed:
                context.issues.add(IssueKind.UNPAIRED, path, f"{source.name} does not list it")


def _check_reader(dataset: Dataset, issues: Issues) -> None:
    """Runs the reader, for errors that the other checks do not find."""
    try:
        if not dataset.samples_for(*dataset.spec.evaluators):
            issues.add(IssueKind.MISSING, dataset.folder, "no image is listed")
    except DatasetError as error:
        issues.add(IssueKind.OTHER, dataset.folder, str(error))
