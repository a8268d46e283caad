# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Readers of instance segmentation: COCO and LVIS."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cmpf.data.datasets.issues import IssueKind, Issues
from cmpf.data.datasets.readers.coco_json import Categories, check_class_of_id, image_samples
from cmpf.data.datasets.readers.folders import check_files
from cmpf.data.vocabulary import Vocabulary
from cmpf.formats.coco_json import coco_form, lvis_image_name, read_coco
from cmpf.formats.masks import segmentation_issue
from cmpf.types import Sample

_LVIS_LISTS = ("neg_category_ids", "not_exhaustive_category_ids")


def read_coco_instances(
    *,
    images: Path,
    annotations: Path,
    vocabulary: Vocabulary,
    class_of_id: Mapping[int, int] | None = None,
) -> list[Sample]:
    """Samples of a dataset in COCO instances layout, in the order of the JSON file.

    Args:
        images: folder of the images.
        annotations: COCO instances JSON.
        vocabulary: gives the class indices.
        class_of_id: category id of the JSON file -> class index; None = categories are found by their name
            among the words of the vocabulary.
    Returns:
        Samples with file_name, image_id, height, width and `annotations`, crowds among them; images without
        an object have an empty list. No image is opened.
    Raises:
        DatasetError: the file is no COCO JSON; or annotations without image, doubled ids, missing files,
            unknown categories, unusable masks: all in one message, the first few of each by name.
    """
    content = read_coco(annotations)
    return _read(content, images, annotations, vocabulary, class_of_id)


def read_lvis(
    *,
    images: Path,
    annotations: Path,
    vocabulary: Vocabulary,
    class_of_id: Mapping[int, int] | None = None,
) -> list[Sample]:
    """Samples of an LVIS file: as read_coco_instances, and with what LVIS's AP needs.

    Images are found by the last two parts of their `coco_url`, because the images of LVIS's splits lie in
    both of COCO's folders. Samples also have neg_category_ids (classes known to be absent) and
    not_exhaustive_category_ids (classes of which not every object is marked), as class indices.
    """
    content = read_coco(annotations)
    with coco_form(annotations):
        for image in content["images"]:
            image["file_name"] = lvis_image_name(image)
    return _read(content, images, annotations, vocabulary, class_of_id, lists=_LVIS_LISTS)


def add_instances(
    samples: Mapping[int | str, Sample],
    path: Path,
    vocabulary: Vocabulary,
    class_of_id: Mapping[int, int] | None,
    issues: Issues,
) -> None:
    """Puts the entries of a COCO instances file into the samples of the same images, with class indices.

    Images have the same ids in both files, or else the same stem: ADE20K's files are made by two programs.
    """
    content = read_coco(path, ("annotations", "categories"))
    with coco_form(path):
        categories = Categories(content, vocabulary, class_of_id)
        _put_annotations(_by_id_or_stem(samples, content), content, path, categories, issues)


def _read(
    content: Mapping[str, Any],
    images: Path,
    path: Path,
    vocabulary: Vocabulary,
    class_of_id: Mapping[int, int] | None,
    lists: tuple[str, ...] = (),
) -> list[Sample]:
    """Samples of a file whose images have their names; `lists` = keys of lists of category ids to keep."""
    issues = Issues()
    check_class_of_id(class_of_id, vocabulary, path, issues)
    with coco_form(path):
        categories = Categories(content, vocabulary, class_of_id)
        samples = image_samples(content, images, path, issues)
        for image in content["images"]:
            for key in lists:
                indices = (
                    categories.index(identity, f"{key} of image {image['id']}") for identity in image[key]
                )
                samples[image["id"]][key] = [i for i in indices if i is not None]  # type: ignore[literal-required]
        _put_annotations(samples, content, path, categories, issues)
    check_files(samples.values(), issues)
    issues.raise_any(path)
    return list(samples.values())


def _by_id_or_stem(
    samples: Mapping[int | str, Sample], content: Mapping[str, Any]
) -> dict[int | str, Sample]:
    """Image id of the instances file -> sample."""
    by_stem = {Path(sample["file_name"]).stem: sample for sample in samples.values()}
    found = dict(samples)
    for image in content.get("images", ()):
        if image["id"] not in found and Path(image["file_name"]).stem in by_stem:
            found[image["id"]] = by_stem[Path(image["file_name"]).stem]
    return found


def _put_annotations(
    samples: Mapping[int | str, Sample],
    content: Mapping[str, Any],
    path: Path,
    categories: Categories,
    issues: Issues,
) -> None:
    for sample in samples.values():
        sample["annotations"] = []
    for entry in content["annotations"]:
        category = entry["category_id"]
        index = categories.index(category, f"image {entry['image_id']}")
        sample_of_entry = samples.get(entry["image_id"])
        name = f"annotation {entry.get('id', '?')}"
        if sample_of_entry is None:
            issues.add(IssueKind.UNPAIRED, path, f"{name} is of image {entry['image_id']}, not in images")
        elif index is not None:
            height, width = sample_of_entry["height"], sample_of_entry["width"]
            issue = segmentation_issue(entry["segmentation"], height=height, width=width)
            if issue:
                issues.add(IssueKind.FORM, path, f"mask of {name}: {issue}")
            sample_of_entry["annotations"].append({**entry, "category_id": index})
    issues.add_doubles(path, "annotation id {}", (entry["id"] for entry in content["annotations"]))
    categories.report(path, issues)
