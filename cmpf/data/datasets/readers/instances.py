# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Readers of instance segmentation: COCO and LVIS."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cmpf.data.datasets.readers.coco_json import (
    Categories,
    check_label_map,
    image_samples,
    not_coco,
    read_json,
)
from cmpf.data.datasets.readers.folders import check_files
from cmpf.data.datasets.readers.issues import Issues
from cmpf.data.vocabulary import Vocabulary
from cmpf.formats.masks import segmentation_issue
from cmpf.types import Sample

_LISTS = ("images", "annotations", "categories")
_LVIS_LISTS = ("neg_category_ids", "not_exhaustive_category_ids")


def read_coco_instances(
    *,
    images: Path,
    annotations: Path,
    vocabulary: Vocabulary,
    label_map: Mapping[int, int] | None = None,
) -> list[Sample]:
    """Samples of a dataset in COCO instances layout, in the order of the JSON file.

    Args:
        images: folder of the images.
        annotations: COCO instances JSON.
        vocabulary: gives the class indices.
        label_map: category id of the JSON file -> class index; None = categories are found by their name
            among the words of the vocabulary.
    Returns:
        Samples with file_name, image_id, height, width and `annotations`, crowds among them; images without
        an object have an empty list. No image is opened.
    Raises:
        DatasetError: the file is no COCO JSON; or annotations without image, doubled ids, missing files,
            unknown categories, unusable masks: all in one message, the first few of each by name.
    """
    content = read_json(annotations, _LISTS)
    return _read(content, images, annotations, vocabulary, label_map)


def read_lvis(
    *,
    images: Path,
    annotations: Path,
    vocabulary: Vocabulary,
    label_map: Mapping[int, int] | None = None,
) -> list[Sample]:
    """Samples of an LVIS file: as read_coco_instances, and with what LVIS's AP needs.

    Images are found by the last two parts of their `coco_url`, because the images of LVIS's splits lie in
    both of COCO's folders. Samples also have neg_category_ids (classes known to be absent) and
    not_exhaustive_category_ids (classes of which not every object is marked), as class indices.
    """
    content = read_json(annotations, _LISTS)
    try:
        for image in content["images"]:
            if "coco_url" in image:
                image["file_name"] = "/".join(image["coco_url"].split("/")[-2:])
    except (KeyError, TypeError, AttributeError) as error:
        raise not_coco(annotations, error) from error
    return _read(content, images, annotations, vocabulary, label_map, lists=_LVIS_LISTS)


def add_instances(
    samples: Mapping[int | str, Sample],
    path: Path,
    vocabulary: Vocabulary,
    label_map: Mapping[int, int] | None,
    issues: Issues,
) -> None:
    """Puts the entries of a COCO instances file into the samples of the same images, with class indices.

    Images have the same ids in both files, or else the same stem: ADE20K's files are made by two programs.
    """
    content = read_json(path, ("annotations", "categories"))
    try:
        categories = Categories(content, vocabulary, label_map, issues)
        _put_annotations(_by_id_or_stem(samples, content), content, categories, issues)
    except (KeyError, TypeError) as error:
        raise not_coco(path, error) from error


def _read(
    content: Mapping[str, Any],
    images: Path,
    path: Path,
    vocabulary: Vocabulary,
    label_map: Mapping[int, int] | None,
    lists: tuple[str, ...] = (),
) -> list[Sample]:
    """Samples of a file whose images have their names; `lists` = keys of lists of category ids to keep."""
    issues = Issues()
    check_label_map(label_map, vocabulary, issues)
    try:
        categories = Categories(content, vocabulary, label_map, issues)
        samples = image_samples(content, images, issues)
        for image in content["images"]:
            for key in lists:
                indices = (categories.index(identity) for identity in image[key])
                samples[image["id"]][key] = [i for i in indices if i is not None]  # type: ignore[literal-required]
        _put_annotations(samples, content, categories, issues)
    except (KeyError, TypeError) as error:
        raise not_coco(path, error) from error
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
    samples: Mapping[int | str, Sample], content: Mapping[str, Any], categories: Categories, issues: Issues
) -> None:
    for sample in samples.values():
        sample["annotations"] = []
    for entry in content["annotations"]:
        index = categories.index(entry["category_id"])
        sample_of_entry = samples.get(entry["image_id"])
        if sample_of_entry is None:
            issues.add("instances without image", f"{entry.get('id', '?')} of image {entry['image_id']}")
        elif index is not None:
            height, width = sample_of_entry["height"], sample_of_entry["width"]
            issue = segmentation_issue(entry["segmentation"], height=height, width=width)
            if issue:
                issues.add("instances without a usable mask", f"{entry['id']} ({issue})")
            sample_of_entry["annotations"].append({**entry, "category_id": index})
    issues.add_doubles("doubled instance ids", (entry["id"] for entry in content["annotations"]))
