# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Checks COCO and LVIS instance annotations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cmpf.data.datasets.spec import Dataset
from cmpf.data.datasets.validate.coco_files import (
    CategoryCheck,
    ListedImage,
    category_check,
    issue_of,
    listed_images,
    read_coco,
)
from cmpf.data.datasets.validate.files import compare_sizes, image_size
from cmpf.data.datasets.validate.findings import Findings, Mistake
from cmpf.errors import DatasetError
from cmpf.formats.masks import decode_mask


def check_instances(dataset: Dataset, findings: Findings, *, by_url: bool = False, progress: bool) -> None:
    """Opens every image and decodes every mask.

    Args:
        by_url: LVIS's files name images by the last two parts of `coco_url`.
    """
    source = dataset.folder / dataset.spec.truth["annotations"]
    content = read_coco(source, "instances", findings)
    if content is None:
        return
    folder = dataset.folder / dataset.spec.images
    name = _url_name if by_url else _listed_name
    images = listed_images(content, folder, name, source, findings)
    for image in tqdm(images.values(), desc=dataset.name, disable=None if progress else True):
        size = image_size(image.path, findings, listed_in=source)
        compare_sizes(source, f"says of {image.path.name}", image.size, size, findings)
    _check_objects(content, source, images, dataset, findings)


def check_beside(
    source: Path, images: Mapping[int | str, ListedImage], dataset: Dataset, findings: Findings
) -> None:
    """Checks instance annotations of images that were checked before.

    Args:
        source: the JSON file; its images have the same ids, or else the same stems.
    """
    content = read_coco(source, "instances", findings)
    if content is None:
        return
    by_stem = {image.path.stem: image for image in images.values()}
    own = listed_images(content, Path(), _listed_name, source, findings)
    same = {i: by_stem[image.path.stem] for i, image in own.items() if image.path.stem in by_stem}
    known = same | dict(images)
    _check_objects(content, source, known, dataset, findings)


def _listed_name(entry: Mapping[str, Any]) -> str:
    return str(entry["file_name"])


def _url_name(entry: Mapping[str, Any]) -> str:
    return "/".join(entry["coco_url"].split("/")[-2:]) if "coco_url" in entry else _listed_name(entry)


def _check_objects(
    content: Mapping[str, Any],
    source: Path,
    images: Mapping[int | str, ListedImage],
    dataset: Dataset,
    findings: Findings,
) -> None:
    categories = category_check(content, dataset.vocabulary, dataset.spec.class_of_id, source, findings)
    seen: set[Any] = set()
    for number, entry in enumerate(content["annotations"]):
        try:
            _check_object(entry, images, categories, source, findings)
            twice = entry["id"] in seen
            seen.add(entry["id"])
        except (KeyError, TypeError) as error:
            findings.add(Mistake.FORM, source, f"entry {number} of annotations: {issue_of(error)}")
            continue
        if twice:
            findings.add(Mistake.TWICE, source, f"annotation id {entry['id']} is given twice")
    if categories is not None:
        categories.report(source, findings)


def _check_object(
    entry: Mapping[str, Any],
    images: Mapping[int | str, ListedImage],
    categories: CategoryCheck | None,
    source: Path,
    findings: Findings,
) -> None:
    """
    Raises:
        KeyError, TypeError: the entry is not in COCO's form.
    """
    image = images.get(entry["image_id"])
    if image is None:
        message = f"annotation {entry['id']} is of image {entry['image_id']}, not in images"
        findings.add(Mistake.UNPAIRED, source, message)
        return
    name = image.path.name
    if categories is not None:
        categories.index(entry["category_id"], name)
    height, width = image.size
    try:
        where = f"mask of annotation {entry['id']} in {name}"
        mask = decode_mask(entry["segmentation"], height=height, width=width, where=where)
    except DatasetError as error:
        mistake = Mistake.SIZE if "in an image of" in str(error) else Mistake.FORM
        findings.add(mistake, source, str(error).removesuffix("; repair the annotations"))
        return
    if not mask.any():
        message = f"mask of annotation {entry['id']} in {name} has no pixel"
        findings.add(Mistake.EMPTY, source, message)
