# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Verifies a COCO (or LVIS) instances file against its images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pycocotools import mask as rle

from cmpf.errors import DatasetError
from preparation.check_panoptic import doubled, unknown_categories
from preparation.checks import sizes_differ
from preparation.coco import read_json
from preparation.images import present
from preparation.model import Check, Issue


@dataclass(frozen=True)
class _Image:
    image: Path
    size: tuple[int, int]  # (H, W) in the JSON file
    annotations: tuple[Mapping[str, Any], ...]


def check_instances(
    *,
    title: str,
    json: Path,
    image_of: Callable[[Mapping[str, Any]], Path],
    category_ids: Collection[int],
    images: Mapping[str, Path] | None = None,
) -> Check:
    """Ids, categories, sizes and masks of an instances file.

    Args:
        json: COCO instances file.
        image_of: entry of its list `images` -> image.
        category_ids: ids that annotations may have.
        images: name without ending -> image, of all that the file must list; None = it may leave some out.
    Raises:
        DatasetError: the file is not in COCO's form.
    """
    content = read_json(json, ("images", "annotations", "categories"))
    of_image: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    try:
        for annotation in content["annotations"]:
            of_image[annotation["image_id"]].append(annotation)
        issues = _entry_issues(content, json, category_ids)
        items = [
            _Image(image_of(image), (image["height"], image["width"]), tuple(of_image[image["id"]]))
            for image in content["images"]
        ]
    except (KeyError, TypeError) as error:
        raise DatasetError(f"{json}: not in COCO's form ({error!r})") from error
    listed_files = {item.image for item in items}
    there = present(listed_files)
    issues += [Issue("missing images", str(path)) for path in sorted(listed_files - there)]
    listed = {path.stem for path in listed_files}
    alone = [path for name, path in (images or {}).items() if name not in listed]
    issues += [Issue("images that the JSON file lacks", str(path)) for path in alone]
    found = [item for item in items if item.image in there]
    return Check(title=title, images=len(items), issues=issues, items=found, examine=_examine)


def _entry_issues(content: Mapping[str, Any], json: Path, category_ids: Collection[int]) -> list[Issue]:
    annotations = content["annotations"]
    images = [image["id"] for image in content["images"]]
    issues = doubled(images, "doubled image ids", json)
    issues += doubled([annotation["id"] for annotation in annotations], "doubled annotation ids", json)
    used = {annotation["category_id"] for annotation in annotations}
    issues += unknown_categories(used, category_ids, json)
    strange = {annotation["image_id"] for annotation in annotations} - set(images)
    return issues + [
        Issue("annotations without image", f"{json}: {name}") for name in sorted(strange, key=str)
    ]


def _examine(item: _Image) -> list[Issue]:
    issues = sizes_differ(item.image, item.size, item.image)
    for annotation in item.annotations:
        name = f"annotation {annotation['id']} of {item.image}"
        problem = _mask_problem(annotation.get("segmentation"), item.size)
        if problem:
            issues.append(Issue("masks that are wrong", f"{name}: {problem}"))
    return issues


def _mask_problem(segmentation: Any, size: tuple[int, int]) -> str:
    """What is wrong with polygons or an RLE, or "".

    Polygons are not filled: the releases have slivers that cover no pixel's middle.
    """
    if isinstance(segmentation, list):
        valid = segmentation and all(isinstance(p, list) and len(p) >= 6 for p in segmentation)
        return "" if valid else "polygons need three points or more"
    if not isinstance(segmentation, dict) or "counts" not in segmentation:
        return "neither RLE nor polygons"
    if tuple(segmentation.get("size", ())) != size:
        return f"RLE of size {segmentation.get('size')}, image {list(size)}"
    if isinstance(segmentation["counts"], list):
        segmentation = rle.frPyObjects(segmentation, *size)
    return "" if int(rle.area(segmentation)) else "empty"
