# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Validates COCO panoptic, COCO instances and LVIS datasets.

CocoFile reports issues of the JSON file itself; this module opens its files and decodes its masks.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cmpf.data.datasets.issues import IssueKind, Issues
from cmpf.data.datasets.readers import FileNames
from cmpf.data.datasets.readers.coco_entries import CocoFile, Samples
from cmpf.data.datasets.readers.folders import find_images
from cmpf.data.datasets.validate.files import CheckContext
from cmpf.data.datasets.validate.segments import EXACT_STUFF, HIDDEN_STUFF
from cmpf.formats.coco_json import LVIS_FREQUENCIES


def check_panoptic(context: CheckContext, *, names: FileNames) -> int:
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


def check_instances(context: CheckContext, *, lvis: bool, annotated: bool = True) -> int:
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
