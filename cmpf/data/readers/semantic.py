# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Reader of semantic segmentation: a folder of pictures and a folder of label pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cmpf.data.readers.coco_json import check_label_map
from cmpf.data.readers.faults import Faults
from cmpf.data.readers.folders import PICTURE_ENDINGS, find_pictures
from cmpf.data.vocabulary import Vocabulary
from cmpf.errors import DatasetError
from cmpf.types import Sample


def read_semantic(
    *,
    images: Path,
    labels: Path,
    vocabulary: Vocabulary,
    label_map: Mapping[int, int] | None = None,
    image_suffix: str = "",
    label_suffix: str = "",
) -> list[Sample]:
    """Samples of a dataset with one label picture a picture, in the order of their names.

    Args:
        images, labels: folders, searched with all folders in them. A picture and its labels have the same
            path below their folder but for suffix and ending: bonn/x_leftImg8bit.png and
            bonn/x_gtFine_labelTrainIds.png with the suffixes _leftImg8bit and _gtFine_labelTrainIds.
        vocabulary: its size limits the values of label_map.
        label_map: value in the label pictures -> class index; applied when they are opened, not here.
        image_suffix, label_suffix: files without them do not count.
    Returns:
        Samples with file_name, image_id (the common path) and sem_seg_file_name. No picture is opened, so
        sizes are not known.
    Raises:
        DatasetError: no pictures; or pictures without labels, labels without picture, names that two files
            have: all in one message, the first few of each by name.
    """
    faults = Faults()
    check_label_map(label_map, vocabulary, faults)
    pictures = find_pictures(images, suffix=image_suffix, faults=faults)
    truths = find_pictures(labels, suffix=label_suffix, faults=faults)
    if not pictures and not truths:
        named = f" named *{image_suffix}" if image_suffix else ""
        raise DatasetError(
            f"{images}: no pictures{named} in it (of {', '.join(PICTURE_ENDINGS)}), and no labels in {labels}; "
            "prepare the dataset again"
        )
    for key in sorted(pictures.keys() - truths.keys()):
        faults.add("pictures without labels", pictures[key])
    for key in sorted(truths.keys() - pictures.keys()):
        faults.add("labels without picture", truths[key])
    faults.raise_any(labels)
    return [
        {"file_name": str(path), "image_id": key, "sem_seg_file_name": str(truths[key])}
        for key, path in pictures.items()
    ]
