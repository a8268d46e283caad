# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Verifies a COCO panoptic JSON file against its PNGs and pictures."""

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
from preparation.model import Check, Fault
from preparation.pictures import read_ids

NAMED_IDS = 10


@dataclass(frozen=True)
class _Picture:
    picture: Path
    png: Path
    size: tuple[int, int]
    areas: Mapping[int, int | None]  # segment id -> area in the JSON file, if it has one


def check_panoptic(
    *, title: str, images: Mapping[str, Path], json: Path, folder: Path, category_ids: Collection[int]
) -> Check:
    """JSON entries, PNGs and pictures fit together: names, ids, sizes, categories, segments and their areas.

    Args:
        images: name without ending -> picture.
        json: COCO panoptic file.
        folder: of the PNGs.
        category_ids: ids that segments may have.
    Raises:
        DatasetError: the file is not in COCO's form.
    """
    content = read_json(json, ("images", "annotations", "categories"))
    try:
        faults = _entry_faults(content, json, category_ids)
        items = _pictures(content, images, folder)
        entries = {
            Path(entry["file_name"]).stem: folder / entry["file_name"] for entry in content["annotations"]
        }
    except (KeyError, TypeError) as error:
        raise DatasetError(f"{json}: not in COCO's form ({error!r})") from error
    pngs = {path.stem: path for path in sorted(folder.glob("*.png")) if not path.name.startswith(".")}
    faults += orphans(images, entries, "entries in the JSON file")
    faults += [Fault("missing PNGs", str(path)) for name, path in entries.items() if name not in pngs]
    faults += [Fault("PNGs without entry", str(path)) for name, path in pngs.items() if name not in entries]
    present = [item for item in items if item.png.stem in pngs]
    return Check(title=title, pictures=len(images), faults=faults, items=present, examine=_examine)


def doubled(values: Sequence[Any], kind: str, source: Path) -> list[Fault]:
    """A fault for each value that comes twice."""
    return [Fault(kind, f"{source}: {value}") for value, count in Counter(values).items() if count > 1]


def unknown_categories(found: Collection[int], allowed: Collection[int], source: Path) -> list[Fault]:
    """A fault for each category id that is not allowed."""
    return [
        Fault("unknown categories", f"{source}: category id {value}")
        for value in sorted(set(found) - set(allowed))
    ]


def _entry_faults(content: Mapping[str, Any], json: Path, category_ids: Collection[int]) -> list[Fault]:
    images, annotations = content["images"], content["annotations"]
    segments = [segment for entry in annotations for segment in entry["segments_info"]]
    faults = doubled([image["id"] for image in images], "doubled image ids", json)
    faults += doubled([entry["image_id"] for entry in annotations], "pictures with two entries", json)
    faults += unknown_categories({s["category_id"] for s in segments}, category_ids, json)
    known = {image["id"] for image in images}
    annotated = {entry["image_id"] for entry in annotations}
    faults += [
        Fault("entries without image", f"{json}: {name}") for name in sorted(annotated - known, key=str)
    ]
    return faults + [
        Fault("images without entry", f"{json}: {name}") for name in sorted(known - annotated, key=str)
    ]


def _pictures(content: Mapping[str, Any], images: Mapping[str, Path], folder: Path) -> list[_Picture]:
    size_of = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    return [
        _Picture(
            picture=images[Path(entry["file_name"]).stem],
            png=folder / entry["file_name"],
            size=size_of[entry["image_id"]],
            areas={segment["id"]: segment.get("area") for segment in entry["segments_info"]},
        )
        for entry in content["annotations"]
        if entry["image_id"] in size_of and Path(entry["file_name"]).stem in images
    ]


def _examine(item: _Picture) -> list[Fault]:
    ids = read_ids(item.png)
    faults = sizes_differ(item.png, ids.shape, item.picture)
    if item.size != ids.shape:
        named = (
            f"{item.png}: {ids.shape[0]} x {ids.shape[1]} (H x W), JSON file {item.size[0]} x {item.size[1]}"
        )
        faults.append(Fault("sizes that differ from the JSON file's", named))
    values, counts = np.unique(ids, return_counts=True)
    areas = {int(v): int(c) for v, c in zip(values, counts, strict=True) if v}
    faults += _difference("segments in the PNG alone", item.png, areas.keys() - item.areas.keys())
    faults += _difference("segments in the JSON file alone", item.png, item.areas.keys() - areas.keys())
    wrong = {v for v, area in item.areas.items() if area is not None and areas.get(v, area) != area}
    return faults + _difference("areas that differ from the PNG's", item.png, wrong)


def _difference(kind: str, png: Path, ids: Collection[int]) -> list[Fault]:
    if not ids:
        return []
    named = ", ".join(map(str, sorted(ids)[:NAMED_IDS]))
    return [Fault(kind, f"{png}: {named}{', ...' if len(ids) > NAMED_IDS else ''}")]
