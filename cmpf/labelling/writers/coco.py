# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""COCO's datasets: instances.json with run lengths or polygons, and panoptic.json with a PNG for each image."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cmpf.common.files import replacing
from cmpf.formats.coco_json import category_entries
from cmpf.formats.label_map import encode_panoptic_ids
from cmpf.formats.polygons import mask_polygons
from cmpf.labelling.journal import Entry
from cmpf.labelling.record import INSTANCE, PANOPTIC, SegmentRecord

FIRST_ID = 1  # of a category in COCO's files: class index + 1, for 0 is background to most trainers
ANNOTATIONS, PNGS = "annotations", "panoptic"  # folders, as COCO's own are called
Annotations = Callable[[Entry, int], Iterator[dict[str, Any]]]  # of an image, and its id


@dataclass(frozen=True)
class Classes:
    """Name of each class index, and whether it is counted one by one."""

    names: tuple[str, ...]
    is_thing: tuple[bool, ...]

    @classmethod
    def of(cls, configuration: Mapping[str, Any]) -> Classes:
        """Those of configuration_of."""
        names = tuple(words.split(", ")[0] for words in configuration["vocabulary"])
        return cls(names, tuple(name not in configuration["stuff"] for name in names))

    @property
    def stuff(self) -> tuple[str, ...]:
        """Names of those that are not counted."""
        return tuple(name for name, thing in zip(self.names, self.is_thing, strict=True) if not thing)

    def categories(self) -> list[dict[str, Any]]:
        """COCO's list, ids from 1."""
        return category_entries(self.names, self.is_thing, first=FIRST_ID)


def write_instances(entries: Iterable[Entry], classes: Classes, folder: Path) -> list[Path]:
    """annotations/instances.json: masks as run lengths."""
    return [_write(entries, classes, folder / ANNOTATIONS / "instances.json", _numbered(_run_lengths))]


def write_polygons(entries: Iterable[Entry], classes: Classes, folder: Path) -> list[Path]:
    """annotations/instances_polygons.json: masks as polygons, which more trainers read and which lie within a pixel."""
    return [_write(entries, classes, folder / ANNOTATIONS / "instances_polygons.json", _numbered(_polygons))]


def write_segments(entry: Entry, folder: Path) -> list[Path]:
    """panoptic/NAME.png: the ids of the panoptic segments as colors."""
    from PIL import Image

    record = entry.record
    ids = np.zeros((record.height, record.width), dtype=np.int32)
    for segment in record.of_task(PANOPTIC):
        ids[segment.mask()] = segment.id
    path = folder / PNGS / f"{entry.name}.png"
    with replacing(path, durable=False) as temporary:
        Image.fromarray(encode_panoptic_ids(ids)).save(temporary, compress_level=1)
    return [path]


def write_panoptic(entries: Iterable[Entry], classes: Classes, folder: Path) -> list[Path]:
    """annotations/panoptic.json: classes of the segments in panoptic/."""

    def annotations(entry: Entry, image_id: int) -> Iterator[dict[str, Any]]:
        infos = [
            {
                "id": segment.id,
                "category_id": segment.category_id + FIRST_ID,
                "area": segment.area,
                "bbox": [int(side) for side in segment.bbox],
                "iscrowd": 0,
                "score": segment.score,
                "source": segment.source,
            }
            for segment in entry.record.of_task(PANOPTIC)
        ]
        yield {"image_id": image_id, "file_name": f"{entry.name}.png", "segments_info": infos}

    return [_write(entries, classes, folder / ANNOTATIONS / "panoptic.json", annotations)]


def _write(entries: Iterable[Entry], classes: Classes, path: Path, annotations: Annotations) -> Path:
    """A COCO file, written image by image: a million of them need not fit into memory."""
    from cmpf import __version__

    images: list[dict[str, Any]] = []
    info = {"description": "labels made by CMPF, not by people", "version": __version__}
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", errors="replace") as file:
        file.write(f'{{"info": {json.dumps(info)},\n"categories": {_dumps(classes.categories())},\n')
        file.write('"annotations": [')
        separator = "\n"
        for entry in entries:
            record = entry.record
            if record.error:
                continue
            images.append(
                {
                    "id": len(images) + 1,
                    "file_name": entry.file_name,
                    "height": record.height,
                    "width": record.width,
                    **({"coco_url": record.uri} if "://" in record.uri else {}),
                }
            )
            for annotation in annotations(entry, len(images)):
                file.write(separator + _dumps(annotation))
                separator = ",\n"
        file.write('],\n"images": [' + ",\n".join(map(_dumps, images)) + "]}\n")
    return path


def _numbered(mask_of: Callable[[SegmentRecord], Any]) -> Annotations:
    """Annotations of instances with ids from 1, of those whose mask has the form that is wanted."""
    last = 0

    def annotations(entry: Entry, image_id: int) -> Iterator[dict[str, Any]]:
        nonlocal last
        for segment in entry.record.of_task(INSTANCE):
            if segmentation := mask_of(segment):
                last += 1
                yield {
                    "id": last,
                    "image_id": image_id,
                    "category_id": segment.category_id + FIRST_ID,
                    "segmentation": segmentation,
                    "area": segment.area,
                    "bbox": list(segment.bbox),
                    "iscrowd": 0,
                    "score": segment.score,
                    "source": segment.source,
                }

    return annotations


def _run_lengths(segment: SegmentRecord) -> dict[str, Any]:
    return segment.rle


def _polygons(segment: SegmentRecord) -> list[list[float]]:
    return [polygon.reshape(-1).tolist() for polygon in mask_polygons(segment.mask())]


def _dumps(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False)
