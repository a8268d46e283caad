# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Readers of COCO panoptic, COCO instances and LVIS: what coco_entries finds, and whether the files are there."""

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
    """Samples of a dataset in COCO panoptic layout, in the order of the JSON file.

    Args:
        images: folder of the images.
        annotations: COCO panoptic JSON.
        panoptic: folder of the panoptic PNGs.
        vocabulary: gives the class indices.
        semantic: folder of label PNGs, by default paired with the images by stem; None = no
            `sem_seg_file_name`.
        instances: COCO instances JSON of the same images, with the same ids or at least the same stems;
            None = no `annotations`.
        class_of_id: category id of the JSON files -> class index; None = categories are found by their name
            among the words of the vocabulary.
        names: for datasets whose JSON file does not name the files as they are.
    Returns:
        Samples with file_name, image_id, height, width, pan_seg_file_name, segments_info and, where asked
        for, sem_seg_file_name and annotations. No image is opened, but for sizes that the file leaves out.
    Raises:
        DatasetError: a file is no COCO JSON; or images without annotation, annotations without image,
            doubled ids or files, missing files, unknown categories: all in one message, the first few of each
            by name.
    """
    file = _opened(annotations, "panoptic", vocabulary, class_of_id)
    samples = file.panoptic_samples(images, panoptic, semantic, names)
    if instances is not None and samples:
        beside = CocoFile(instances, "instances", vocabulary, class_of_id, file.issues, may_be_empty=True)
        beside.add_objects_beside(samples)
    return _checked(file, samples)


def read_coco_instances(
    *,
    images: Path,
    annotations: Path,
    vocabulary: Vocabulary,
    class_of_id: Mapping[int, int] | None = None,
) -> list[Sample]:
    """Samples of a dataset in COCO instances layout, in the order of the JSON file.

    Args:
        annotations: COCO instances JSON; the others as in read_coco_panoptic.
    Returns:
        Samples with file_name, image_id, height, width and `annotations`, crowds among them; images without
        an object have an empty list. No image is opened.
    Raises:
        DatasetError: the file is no COCO JSON; or annotations without image, doubled ids, missing files,
            unknown categories, unusable masks: all in one message, the first few of each by name.
    """
    file = _opened(annotations, "instances", vocabulary, class_of_id)
    return _checked(file, file.instance_samples(images))


def read_lvis(
    *,
    images: Path,
    annotations: Path,
    vocabulary: Vocabulary,
    class_of_id: Mapping[int, int] | None = None,
    annotated: bool = True,
) -> list[Sample]:
    """Samples of an LVIS file: as read_coco_instances, and with what LVIS's AP needs.

    Samples also have neg_category_ids (classes known to be absent) and not_exhaustive_category_ids (classes of which
    not every object is marked), as class indices. See lvis_image_name for the files of the images.

    Args:
        annotated: False = the file lists images of a test split, whose ground truth nobody has: samples have none.
    """
    file = _opened(annotations, "instances" if annotated else "test images", vocabulary, class_of_id)
    return _checked(file, file.instance_samples(images, lvis=True, annotated=annotated))


def _opened(
    source: Path, wanted: str, vocabulary: Vocabulary, class_of_id: Mapping[int, int] | None
) -> CocoFile:
    """A file whose objects may be none, with what is wrong so far."""
    issues = Issues()
    check_class_of_id(class_of_id, vocabulary, source, issues)
    return CocoFile(source, wanted, vocabulary, class_of_id, issues, may_be_empty=wanted != "panoptic")


def _checked(file: CocoFile, samples: Samples) -> list[Sample]:
    """All samples, where there is no issue."""
    check_files(samples.values(), file.issues)
    file.issues.raise_any(file.source)
    return list(samples.values())
