# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Verifies a COCO panoptic JSON file against its PNGs and images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cmpf.errors import DatasetError
from preparation.checks import orphans, sizes_differ
from preparation.coco import read_json
from preparation.images import read_ids
from preparation.model import Check, Issue

NAMED_IDS = 10


@dataclass(frozen=True)
class _Image:
    image: Path
    png: Path
    size: tuple[int, int]
    areas: Mapping[int, int | None]  # segment id -> area in the JSON file, if it has one


def check_panoptic(
    *, title: str, images: Mapping[str, Path], json: Path, folder: Path, category_ids: Collection[int]
) -> Check:
    """JSON entries, PNGs and images fit together: names, ids, sizes, categories, segments and their areas.

    Args:
        images: name without ending -> image.
        json: COCO panoptic file.
        folder: of the PNGs.
        category_ids: ids that segments may have.
    Raises:
        DatasetError: the file is not in COCO's form.
    """
    content = read_json(json, ("images", "annotations", "categories"))
    try:
        issues = _entry_issues(content, json, category_ids)
        items = _images(content, images, folder)
        entries = {
            Path(entry["file_name"]).stem: folder / entry["file_name"] for entry in content["annotations"]
        }
    except (KeyError, TypeError) as error:
        raise DatasetError(f"{json}: not in COCO's form ({error!r})") from error
    pngs = {path.stem: path for path in sorted(folder.glob("*.png")) if not path.name.startswith(".")}
    issues += orphans(images, entries, "entries in the JSON file")
    issues += [Issue("missing PNGs", str(path)) for name, path in entries.items() if name not in pngs]
    issues += [Issue("PNGs without entry", str(path)) for name, path in pngs.items() if name not in entries]
    present = [item for item in items if item.png.stem in pngs]
    return Check(title=title, images=len(images), issues=issues, items=present, examine=_examine)


def doubled(values: Sequence[Any], kind: str, source: Path) -> list[Issue]:
    """An issue for each value that comes twice."""
    return [Issue(kind, f"{source}: {value}") for value, count in Counter(values).items() if count > 1]


def unknown_categories(found: Collection[int], allowed: Collection[int], source: Path) -> list[Issue]:
    """An issue for each category id that is not allowed."""
    return [
        Issue("unknown categories", f"{source}: category id {value}")
        for value in sorted(set(found) - set(allowed))
    ]


def _entry_issues(content: Mapping[str, Any], json: Path, category_ids: Collection[int]) -> list[Issue]:
    images, annotations = content["images"], content["annotations"]
    segments = [segment for entry in annotations for segment in entry["segments_info"]]
    issues = doubled([image["id"] for image in images], "doubled image ids", json)
    issues += doubled([entry["image_id"] for entry in annotations], "images with two entries", json)
    issues += unknown_categories({s["category_id"] for s in segments}, category_ids, json)
    known = {image["id"] for image in images}
    annotated = {entry["image_id"] for entry in annotations}
    issues += [
        Issue("entries without image", f"{json}: {name}") for name in sorted(annotated - known, key=str)
    ]
    return issues + [
        Issue("images without entry", f"{json}: {name}") for name in sorted(known - annotated, key=str)
    ]


def _images(content: Mapping[str, Any], images: Mapping[str, Path], folder: Path) -> list[_Image]:
    size_of = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    return [
        _Image(
            image=images[Path(entry["file_name"]).stem],
            png=folder / entry["file_name"],
            size=size_of[entry["image_id"]],
            areas={segment["id"]: segment.get("area") for segment in entry["segments_info"]},
        )
        for entry in content["annotations"]
        if entry["image_id"] in size_of and Path(entry["file_name"]).stem in images
    ]


def _examine(item: _Image) -> list[Issue]:
    ids = read_ids(item.png)
    issues = sizes_differ(item.png, ids.shape, item.image)
    if item.size != ids.shape:
        named = (
            f"{item.png}: {ids.shape[0]} x {ids.shape[1]} (H x W), JSON file {item.size[0]} x {item.size[1]}"
        )
        issues.append(Issue("sizes that differ from the JSON file's", named))
    values, counts = np.unique(ids, return_counts=True)
    areas = {int(v): int(c) for v, c in zip(values, counts, strict=True) if v}
    issues += _difference("segments in the PNG alone", item.png, areas.keys() - item.areas.keys())
    issues += _difference("segments in the JSON file alone", item.png, item.areas.keys() - areas.keys())
    wrong = {v for v, area in item.areas.items() if area is not None and areas.get(v, area) != area}
    return issues + _difference("areas that differ from the PNG's", item.png, wrong)


def _difference(kind: str, png: Path, ids: Collection[int]) -> list[Issue]:
    if not ids:
        return []
    named = ", ".join(map(str, sorted(ids)[:NAMED_IDS]))
    return [Issue(kind, f"{png}: {named}{', ...' if len(ids) > NAMED_IDS else ''}")]
