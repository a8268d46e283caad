# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Checks COCO and LVIS instance annotations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cmpf.data.coco_masks import decode_segmentation
from cmpf.data.dataset_check.coco_files import (
    CategoryCheck,
    ListedPicture,
    category_check,
    fault_of,
    listed_pictures,
    read_coco,
)
from cmpf.data.dataset_check.files import compare_sizes, picture_size
from cmpf.data.dataset_check.findings import Findings, Mistake
from cmpf.data.entry import Dataset


def check_instances(dataset: Dataset, findings: Findings, *, by_url: bool = False, progress: bool) -> None:
    """Opens every picture and decodes every mask.

    Args:
        by_url: LVIS's files name pictures by the last two parts of `coco_url`.
    """
    source = dataset.folder / dataset.entry.truth["annotations"]
    content = read_coco(source, "instances", findings)
    if content is None:
        return
    folder = dataset.folder / dataset.entry.images
    name = _url_name if by_url else _listed_name
    pictures = listed_pictures(content, folder, name, source, findings)
    for picture in tqdm(pictures.values(), desc=dataset.name, disable=None if progress else True):
        size = picture_size(picture.path, findings, listed_in=source)
        compare_sizes(source, f"says of {picture.path.name}", picture.size, size, findings)
    _check_objects(content, source, pictures, dataset, findings)


def check_beside(
    source: Path, pictures: Mapping[int | str, ListedPicture], dataset: Dataset, findings: Findings
) -> None:
    """Checks instance annotations of pictures that were checked before.

    Args:
        source: the JSON file; its pictures have the same ids, or else the same stems.
    """
    content = read_coco(source, "instances", findings)
    if content is None:
        return
    by_stem = {picture.path.stem: picture for picture in pictures.values()}
    own = listed_pictures(content, Path(), _listed_name, source, findings)
    same = {i: by_stem[picture.path.stem] for i, picture in own.items() if picture.path.stem in by_stem}
    known = same | dict(pictures)
    _check_objects(content, source, known, dataset, findings)


def _listed_name(entry: Mapping[str, Any]) -> str:
    return str(entry["file_name"])


def _url_name(entry: Mapping[str, Any]) -> str:
    return "/".join(entry["coco_url"].split("/")[-2:]) if "coco_url" in entry else _listed_name(entry)


def _check_objects(
    content: Mapping[str, Any],
    source: Path,
    pictures: Mapping[int | str, ListedPicture],
    dataset: Dataset,
    findings: Findings,
) -> None:
    categories = category_check(content, dataset.vocabulary, dataset.entry.label_map, source, findings)
    seen: set[Any] = set()
    for number, entry in enumerate(content["annotations"]):
        try:
            _check_object(entry, pictures, categories, source, findings)
            twice = entry["id"] in seen
            seen.add(entry["id"])
        except (KeyError, TypeError) as error:
            findings.add(Mistake.FORM, source, f"entry {number} of annotations: {fault_of(error)}")
            continue
        if twice:
            findings.add(Mistake.TWICE, source, f"annotation id {entry['id']} is given twice")
    if categories is not None:
        categories.report(source, findings)


def _check_object(
    entry: Mapping[str, Any],
    pictures: Mapping[int | str, ListedPicture],
    categories: CategoryCheck | None,
    source: Path,
    findings: Findings,
) -> None:
    """
    Raises:
        KeyError, TypeError: the entry is not in COCO's form.
    """
    picture = pictures.get(entry["image_id"])
    if picture is None:
        message = f"annotation {entry['id']} is of image {entry['image_id']}, not in images"
        findings.add(Mistake.UNPAIRED, source, message)
        return
    name = picture.path.name
    if categories is not None:
        categories.index(entry["category_id"], name)
    height, width = picture.size
    try:
        mask = decode_segmentation(entry["segmentation"], height=height, width=width)
    except ValueError as error:
        mistake = Mistake.SIZE if "in a picture of" in str(error) else Mistake.FORM
        findings.add(mistake, source, f"mask of annotation {entry['id']} in {name}: {error}")
        return
    if not mask.any():
        message = f"mask of annotation {entry['id']} in {name} has no pixel"
        findings.add(Mistake.EMPTY, source, message)
