# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Reader of COCO panoptic segmentation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmpf.data.datasets.issues import IssueKind, Issues
from cmpf.data.datasets.readers.coco_json import Categories, check_class_of_id, image_samples
from cmpf.data.datasets.readers.folders import check_files
from cmpf.data.datasets.readers.instances import add_instances
from cmpf.data.vocabulary import Vocabulary
from cmpf.formats.coco_json import coco_form, image_name, read_coco
from cmpf.types import Sample, SegmentInfo


def _stem_png(entry: Mapping[str, Any]) -> str:
    return f"{Path(entry['file_name']).stem}.png"


@dataclass(frozen=True)
class FileNames:
    """How a dataset names its files: entry of `images` in the JSON file -> path below the folder.

    image: below the folder of images. semantic: below the folder of label maps.
    """

    image: Callable[[Mapping[str, Any]], str] = image_name
    semantic: Callable[[Mapping[str, Any]], str] = _stem_png


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
        for, sem_seg_file_name and annotations. No image is opened.
    Raises:
        DatasetError: a file is no COCO JSON; or images without annotation, annotations without image,
            doubled ids or files, missing files, unknown categories: all in one message, the first few of each
            by name.
    """
    content = read_coco(annotations)
    issues = Issues()
    check_class_of_id(class_of_id, vocabulary, annotations, issues)
    with coco_form(annotations):
        categories = Categories(content, vocabulary, class_of_id)
        samples = image_samples(content, images, annotations, issues)
        for image in content["images"]:
            samples[image["id"]]["file_name"] = str(images / names.image(image))
            if semantic is not None:
                samples[image["id"]]["sem_seg_file_name"] = str(semantic / names.semantic(image))
        _add_segments(samples, content, annotations, panoptic, categories, issues)
    categories.report(annotations, issues)
    if instances is not None:
        add_instances(samples, instances, vocabulary, class_of_id, issues)
    check_files(samples.values(), issues)
    issues.raise_any(annotations)
    return list(samples.values())


def _add_segments(
    samples: Mapping[int | str, Sample],
    content: Mapping[str, Any],
    source: Path,
    panoptic: Path,
    categories: Categories,
    issues: Issues,
) -> None:
    """Puts the entries of `annotations` into the samples."""
    for annotation in content["annotations"]:
        sample = samples.get(annotation["image_id"])
        if sample is None:
            message = (
                f"annotation {annotation['file_name']} is of image {annotation['image_id']}, not in images"
            )
            issues.add(IssueKind.UNPAIRED, source, message)
            continue
        if "segments_info" in sample:
            issues.add(IssueKind.TWICE, source, f"image {sample['image_id']} has two annotations")
        sample["pan_seg_file_name"] = str(panoptic / annotation["file_name"])
        sample["segments_info"] = _segments(annotation, source, categories, issues)
    for sample in samples.values():
        if "segments_info" not in sample:
            issues.add(IssueKind.UNPAIRED, Path(sample["file_name"]), f"has no annotation in {source.name}")


def _segments(
    annotation: Mapping[str, Any], source: Path, categories: Categories, issues: Issues
) -> list[SegmentInfo]:
    segments: list[SegmentInfo] = []
    for entry in annotation["segments_info"]:
        index = categories.index(entry["category_id"], annotation["file_name"])
        if index is None:
            continue
        segment: SegmentInfo = {
            "id": entry["id"],
            "category_id": index,
            "isthing": categories.is_thing[index],
            "iscrowd": entry.get("iscrowd", 0),
        }
        if "area" in entry:
            segment["area"] = entry["area"]
        if "bbox" in entry:
            segment["bbox"] = entry["bbox"]
        segments.append(segment)
    ids = (entry["id"] for entry in annotation["segments_info"])
    issues.add_doubles(source, f"segment id {{}} of {annotation['file_name']}", ids)
    return segments
