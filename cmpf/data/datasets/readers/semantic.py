# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Reader of semantic segmentation: a folder of images and a folder of label maps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cmpf.data.datasets.issues import IssueKind, Issues
from cmpf.data.datasets.readers.coco_json import check_class_of_id
from cmpf.data.datasets.readers.folders import IMAGE_SUFFIXES, find_images
from cmpf.data.vocabulary import Vocabulary
from cmpf.errors import DatasetError
from cmpf.types import Sample


def read_semantic(
    *,
    images: Path,
    labels: Path,
    vocabulary: Vocabulary,
    class_of_id: Mapping[int, int] | None = None,
    image_suffix: str = "",
    label_suffix: str = "",
) -> list[Sample]:
    """Samples of a dataset with one label map an image, in the order of their names.

    Args:
        images, labels: folders, searched with all folders in them. An image and its labels have the same
            path below their folder but for suffix and ending: bonn/x_leftImg8bit.png and
            bonn/x_gtFine_labelTrainIds.png with the suffixes _leftImg8bit and _gtFine_labelTrainIds.
        vocabulary: its size limits the values of class_of_id.
        class_of_id: value in the label maps -> class index; applied when they are opened, not here.
        image_suffix, label_suffix: files without them do not count.
    Returns:
        Samples with file_name, image_id (the common path) and sem_seg_file_name. No image is opened, so
        sizes are not known.
    Raises:
        DatasetError: no images; or images without labels, labels without image, names that two files
            have: all in one message, the first few of each by name.
    """
    issues = Issues()
    check_class_of_id(class_of_id, vocabulary, labels, issues)
    image_files = find_images(images, suffix=image_suffix, issues=issues)
    truths = find_images(labels, suffix=label_suffix, issues=issues)
    if not image_files and not truths:
        named = f" named *{image_suffix}" if image_suffix else ""
        raise DatasetError(
            f"{images}: no images{named} in it (of {', '.join(IMAGE_SUFFIXES)}), and no labels in {labels}; "
            "prepare the dataset again"
        )
    for key in sorted(image_files.keys() - truths.keys()):
        issues.add(IssueKind.UNPAIRED, image_files[key], f"has no labels {key}{label_suffix}.* in {labels}")
    for key in sorted(truths.keys() - image_files.keys()):
        issues.add(IssueKind.UNPAIRED, truths[key], f"has no image {key}{image_suffix}.* in {images}")
    issues.raise_any(labels)
    return [
        {"file_name": str(path), "image_id": key, "sem_seg_file_name": str(truths[key])}
        for key, path in image_files.items()
    ]
