# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Readers of COCO panoptic, COCO instances and LVIS datasets; any issue becomes a DatasetError."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cmpf.data.datasets.issues import Issues
from cmpf.data.datasets.readers.coco_entries import CocoFile, FileNames, Samples
from cmpf.data.datasets.readers.folders import check_class_of_id, check_files
from cmpf.data.vocabulary import Vocabulary
from cmpf.types import Sample

COCO_NAMES = FileNames()


def read_coco_panoptic(
    *,
    images: Path,
    annotations: Path,
    panoptic: Path,
    vocabulary: Vocabulary,
    semantic: Path | None = None,
    instances: Path | None = None,
    class_of_id: Mapping[int, int] | None = None,
    names: FileNames = COCO_NAMES,
) -> list[Sample]:
    """Reads a COCO panoptic dataset, in the order of the JSON file.

    Args:
        images: folder of the images.
        annotations: COCO panoptic JSON.
        panoptic: folder of the panoptic PNGs.
        vocabulary: defines the class indices.
        semantic: folder of label maps, by default with the stems of the images; None = no `sem_seg_file_name`.
        instances: COCO instances JSON with the same image ids, or at least the same stems; None = no `annotations`.
        class_of_id: category id in the JSON files -> class index; None = categories are matched by name with the words
            of the vocabulary.
        names: file naming rules, for datasets whose JSON file does not give the actual file names.
    Returns:
        Samples with file_name, image_id, height, width, pan_seg_file_name, segments_info and, if requested,
        sem_seg_file_name and annotations. Images are opened only for sizes that are missing in the JSON file.
    Raises:
        DatasetError: a file is no COCO JSON, images or annotations are unpaired, ids or files are duplicated, files
            are missing, or categories are unknown; one message gives the first few of each.
    """
    file = _open(annotations, "panoptic", vocabulary, class_of_id)
    samples = file.panoptic_samples(images, panoptic, semantic, names)
    if instances is not None and samples:
        instances_file = CocoFile(
            instances, "instances", vocabulary, class_of_id, file.issues, may_be_empty=True
        )
        instances_file.add_annotations_to(samples)
    return _checked(file, samples)


def read_coco_instances(
    *,
    images: Path,
    annotations: Path,
    vocabulary: Vocabulary,
    class_of_id: Mapping[int, int] | None = None,
) -> list[Sample]:
    """Reads a COCO instances dataset, in the order of the JSON file.

    Args:
        annotations: COCO instances JSON; the others as in read_coco_panoptic.
    Returns:
        Samples with file_name, image_id, height, width and `annotations`, including crowds; the list is empty for
        images without objects. No image is opened.
    Raises:
        DatasetError: the file is no COCO JSON, annotations have no image, ids are duplicated, files are missing, or
            categories or masks are invalid; one message gives the first few of each.
    """
    file = _open(annotations, "instances", vocabulary, class_of_id)
    return _checked(file, file.instance_samples(images))


def read_lvis(
    *,
    images: Path,
    annotations: Path,
    vocabulary: Vocabulary,
    class_of_id: Mapping[int, int] | None = None,
    annotated: bool = True,
) -> list[Sample]:
    """Reads an LVIS dataset, as read_coco_instances.

    Samples also have neg_category_ids (classes known to be absent) and not_exhaustive_category_ids (classes whose
    objects are not all annotated), as class indices. lvis_image_name gives the paths of the images.

    Args:
        annotated: False = the file lists the images of a test split without annotations.
    """
    file = _open(annotations, "instances" if annotated else "test images", vocabulary, class_of_id)
    return _checked(file, file.instance_samples(images, lvis=True, annotated=annotated))


def _open(
    source: Path, wanted: str, vocabulary: Vocabulary, class_of_id: Mapping[int, int] | None
) -> CocoFile:
    issues = Issues()
    check_class_of_id(class_of_id, vocabulary, source, issues)
    return CocoFile(source, wanted, vocabulary, class_of_id, issues, may_be_empty=wanted != "panoptic")


def _checked(file: CocoFile, samples: Samples) -> list[Sample]:
    """The samples as a list; a DatasetError if there are issues."""
    check_files(samples.values(), file.issues)
    file.issues.raise_any(file.source)
    return list(samples.values())
