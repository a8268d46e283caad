# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Checks datasets in COCO panoptic layout."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from cmpf.data.datasets.readers import FileNames
from cmpf.data.datasets.spec import Dataset
from cmpf.data.datasets.validate.coco_files import (
    CategoryCheck,
    ListedImage,
    category_check,
    issue_of,
    listed_images,
    read_coco,
)
from cmpf.data.datasets.validate.files import LabelCheck, Size, compare_sizes, file_form, image_size
from cmpf.data.datasets.validate.findings import Findings, Mistake, named
from cmpf.data.datasets.validate.instances import check_beside
from cmpf.errors import DatasetError
from cmpf.formats.label_map import VOID_ID, SegmentIds, read_panoptic_ids

_HOLDS_IDS = ("RGB", "RGBA", "L", "P", "I", "I;16", "I;16B")  # modes that ids can be read from


def check_panoptic(
    dataset: Dataset, findings: Findings, *, names: FileNames | None = None, progress: bool
) -> None:
    """Opens every image, panoptic PNG and label map that the JSON file names.

    Args:
        names: of a reader whose JSON file does not name the files as they are.
    """
    truth = {key: dataset.folder / path for key, path in dataset.spec.truth.items()}
    source = truth["annotations"]
    content = read_coco(source, "panoptic", findings)
    if content is None:
        return
    names = names or FileNames()
    folder = dataset.folder / dataset.spec.images
    images = listed_images(content, folder, names.image, source, findings)
    annotations = _paired(content, images, source, findings)
    categories = category_check(content, dataset.vocabulary, dataset.spec.class_of_id, source, findings)
    labels = LabelCheck(
        num_classes=dataset.vocabulary.num_classes,
        ignore_label=dataset.spec.ignore_label,
        label_map=dataset.spec.class_of_label,
        findings=findings,
    )
    for identity, image in tqdm(images.items(), desc=dataset.name, disable=None if progress else True):
        size = image_size(image.path, findings, listed_in=source)
        compare_sizes(source, f"says of {image.path.name}", image.size, size, findings)
        if identity in annotations:
            _check_segments(annotations[identity], truth["panoptic"], size, categories, source, findings)
        if "semantic" in truth:
            labels(truth["semantic"] / names.semantic(image.entry), size)
    if categories is not None:
        categories.report(source, findings)
    if "instances" in truth:
        check_beside(truth["instances"], images, dataset, findings)


def _paired(
    content: Mapping[str, Any],
    images: Mapping[int | str, ListedImage],
    source: Path,
    findings: Findings,
) -> dict[int | str, Mapping[str, Any]]:
    """Image id -> its annotation."""
    found: dict[int | str, Mapping[str, Any]] = {}
    used: dict[str, int | str] = {}
    for number, entry in enumerate(content["annotations"]):
        try:
            identity, name = entry["image_id"], str(entry["file_name"])
            known = identity in images
            _check_keys(entry["segments_info"])
        except (KeyError, TypeError) as error:
            findings.add(Mistake.FORM, source, f"entry {number} of annotations: {issue_of(error)}")
            continue
        if not known:
            findings.add(Mistake.UNPAIRED, source, f"annotation {name} is of image {identity}, not in images")
        elif identity in found:
            both = f"{found[identity]['file_name']} and {name}"
            findings.add(Mistake.TWICE, source, f"image {identity} has two annotations: {both}")
        elif name in used:
            findings.add(Mistake.TWICE, source, f"images {used[name]} and {identity} share the PNG {name}")
        else:
            found[identity], used[name] = entry, identity
    for identity in images.keys() - found.keys():
        findings.add(Mistake.UNPAIRED, images[identity].path, f"has no annotation in {source.name}")
    return found


def _check_keys(segments: Any) -> None:
    """
    Raises:
        KeyError, TypeError: a segment has no id or category id, or one that is no number.
    """
    for segment in segments:
        hash((segment["id"], segment["category_id"]))


def _check_segments(
    annotation: Mapping[str, Any],
    folder: Path,
    image: Size | None,
    categories: CategoryCheck | None,
    source: Path,
    findings: Findings,
) -> None:
    """One annotation and its PNG."""
    segments = annotation["segments_info"]
    for segment in segments:
        if categories is not None:
            categories.index(segment["category_id"], annotation["file_name"])
    path = folder / annotation["file_name"]
    form = file_form(path, "panoptic PNG", findings)
    if form is None:
        return
    image_format, mode = form
    if mode != "RGB" or image_format == "JPEG":
        what = "a JPEG, which changes the ids" if image_format == "JPEG" else f"an image of mode {mode}"
        findings.add(Mistake.NOT_RGB, path, f"is {what}; segment ids are read from R, G and B")
    if mode not in _HOLDS_IDS or image_format == "JPEG":
        return
    try:
        ids = read_panoptic_ids(path)
    except DatasetError as error:
        findings.add(Mistake.DAMAGED, path, str(error).removeprefix(f"{path}: "))
        return
    compare_sizes(path, "has", (ids.shape[0], ids.shape[1]), image, findings)
    _compare_ids(ids, segments, path, source, findings)


def _compare_ids(
    ids: SegmentIds, segments: list[Mapping[str, Any]], path: Path, source: Path, findings: Findings
) -> None:
    """Ids in a PNG and in its annotation must be the same, and each belong to one segment."""
    values, counts = np.unique(ids, return_counts=True)
    pixels = dict(zip(values.tolist(), counts.tolist(), strict=True))
    pixels.pop(VOID_ID, None)
    listed = Counter(segment["id"] for segment in segments)

    def report(what: str, wrong: list[Any]) -> None:
        if wrong:
            findings.add(Mistake.IDS, path, what.format(named(wrong)))

    report(f"segment id {{}} given twice in {source.name}", [i for i, n in listed.items() if n > 1])
    report(f"segment id {{}} in {source.name}, but 0 means void", [i for i in listed if i == VOID_ID])
    if not pixels:
        findings.add(Mistake.EMPTY, path, "every pixel is void: no segment is drawn")
        return
    report(f"segment id {{}} in the PNG, but not in {source.name}", sorted(pixels.keys() - listed.keys()))
    lost = [i for i in listed if i not in pixels and i != VOID_ID]
    report(f"segment id {{}} in {source.name}, but without a pixel in the PNG", lost)
    areas = [
        f"{s['id']} ({s['area']} pixels in {source.name}, {pixels[s['id']]} in the PNG)"
        for s in segments
        if s["id"] in pixels and "area" in s and s["area"] != pixels[s["id"]] and listed[s["id"]] == 1
    ]
    report("area of segment id {}: two segments may share the id", areas)
