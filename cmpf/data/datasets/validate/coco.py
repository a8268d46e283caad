# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Checks datasets whose ground truth is a JSON file in COCO's form: panoptic, instances, LVIS.

What is wrong with the JSON file itself, coco_entries tells; here its files are opened and its masks drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cmpf.data.datasets.issues import IssueKind, Issues
from cmpf.data.datasets.readers import FileNames
from cmpf.data.datasets.readers.coco_entries import CocoFile, Samples
from cmpf.data.datasets.readers.folders import find_images
from cmpf.data.datasets.validate.files import Run
from cmpf.data.datasets.validate.segments import EXACT_STUFF, HIDDEN_STUFF
from cmpf.formats.coco_json import LVIS_FREQUENCIES


def check_panoptic(run: Run, *, names: FileNames) -> int:
    """Every image, panoptic PNG and label map that a panoptic JSON file names; returns how many images it lists.

    Args:
        names: see read_coco_panoptic.
    """
    images, truth, issues = run.images, run.dataset.truth, run.issues
    file = _file(run, truth["annotations"], "panoptic")
    samples = file.panoptic_samples(images, truth["panoptic"], truth.get("semantic"), names)
    if "instances" in truth and samples:
        _file(run, truth["instances"], "instances").add_objects_beside(samples)
    folders = {"file_name": images, "pan_seg_file_name": truth["panoptic"]}
    if "semantic" in truth and names == FileNames():  # else the folder holds other files, too
        folders["sem_seg_file_name"] = truth["semantic"]
    _open_files(run, samples, file.source, truth.get("instances"), folders)
    if run.dataset.spec.hidden_stuff and HIDDEN_STUFF not in issues.notes:
        issues.notes[EXACT_STUFF] = None
    return len(samples)


def check_instances(run: Run, *, lvis: bool, annotated: bool = True) -> int:
    """Every image and mask that an instances JSON file names; returns how many images it lists.

    Args:
        lvis: the file is in the form of LVIS, which has more fields, and names images in its own way.
        annotated: False = it lists images of a test split alone.
    """
    file = _file(run, run.dataset.truth["annotations"], "instances" if annotated else "test images")
    samples = file.instance_samples(run.images, lvis=lvis, annotated=annotated)
    if lvis and annotated and samples:
        _check_frequencies(file, run.dataset.vocabulary.num_classes)
    _open_files(run, samples, file.source, file.source, {} if lvis else {"file_name": run.images})
    return len(samples)


def _file(run: Run, source: Path, wanted: str) -> CocoFile:
    """A JSON file of the dataset; objects of a release are all things."""
    things_only = run.released and wanted == "instances"
    spec, vocabulary = run.dataset.spec, run.dataset.vocabulary
    return CocoFile(source, wanted, vocabulary, spec.class_of_id, run.issues, things_only=things_only)


def _check_frequencies(file: CocoFile, num_classes: int) -> None:
    """AP of a federated dataset needs all categories, and their frequencies."""
    categories = [entry for entry in file.content["categories"] if isinstance(entry, Mapping)]
    if len(categories) != num_classes:
        message = f"{len(categories):,} categories; expected {num_classes:,}"
        file.issues.add(IssueKind.FORM, file.source, message)
    for entry in categories:
        if entry.get("frequency") not in LVIS_FREQUENCIES:
            message = f"category {entry.get('id')} has no frequency r, c or f"
            file.issues.add(IssueKind.FORM, file.source, message)


def _open_files(
    run: Run, samples: Samples, source: Path, objects: Path | None, folders: Mapping[str, Path]
) -> None:
    """Opens the files of all samples, and looks for others, which a release does not have.

    Args:
        source, objects: the JSON files of the images and of the objects in them.
        folders: key of a sample -> folder of such files.
    """
    run.open_files(list(samples.values()), source=source, objects=objects)
    for key, folder in folders.items() if run.released else ():
        listed = {sample.get(key) for sample in samples.values()}
        for path in find_images(folder, suffix="", issues=Issues()).values():
            if str(path) not in listed:
                run.issues.add(IssueKind.UNPAIRED, path, f"{source.name} does not list it")
