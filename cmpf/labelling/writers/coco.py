# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Writes COCO datasets: instances as run lengths or polygons, and panoptic segments with a PNG for each image."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cmpf.common.files import replacing
from cmpf.formats.coco_json import category_entries
from cmpf.formats.label_map import write_panoptic_ids
from cmpf.formats.polygons import mask_polygons
from cmpf.labelling.configuration import configured_vocabulary
from cmpf.labelling.journal import Entry
from cmpf.labelling.record import INSTANCE, PANOPTIC, SegmentRecord

FIRST_ID = 1  # category id = class index + 1, because most trainers take 0 for background
ANNOTATIONS, PNGS = "annotations", "panoptic"  # folder names as in COCO
AnnotationMaker = Callable[[Entry, int], Iterator[dict[str, Any]]]  # entry, image id -> annotations


def write_instances(entries: Iterable[Entry], configuration: Mapping[str, Any], folder: Path) -> list[Path]:
    """annotations/instances.json: masks as run lengths."""
    path = folder / ANNOTATIONS / "instances.json"
    return [_write(entries, configuration, path, _instance_annotations(lambda segment: segment.rle))]


def write_polygons(entries: Iterable[Entry], configuration: Mapping[str, Any], folder: Path) -> list[Path]:
    """annotations/instances_polygons.json: masks as polygons, which more trainers read; exact to a pixel."""
    path = folder / ANNOTATIONS / "instances_polygons.json"
    return [_write(entries, configuration, path, _instance_annotations(_polygons))]


def write_panoptic_png(entry: Entry, folder: Path) -> list[Path]:
    """panoptic/NAME.png: segment ids encoded as colors."""
    record = entry.record
    ids = np.zeros((record.height, record.width), dtype=np.int32)
    for segment in record.of_task(PANOPTIC):
        ids[segment.mask()] = segment.id
    path = folder / PNGS / f"{entry.name}.png"
    return [write_panoptic_ids(path, ids, durable=False, compress_level=1)]


def write_panoptic_json(
    entries: Iterable[Entry], configuration: Mapping[str, Any], folder: Path
) -> list[Path]:
    """annotations/panoptic.json: the segments of the PNGs."""

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

    return [_write(entries, configuration, folder / ANNOTATIONS / "panoptic.json", annotations)]


def _write(
    entries: Iterable[Entry], configuration: Mapping[str, Any], path: Path, annotations: AnnotationMaker
) -> Path:
    """Writes a COCO file as a stream: the annotations of a million images need not fit into memory."""
    from cmpf import __version__

    vocabulary = configured_vocabulary(configuration)
    categories = category_entries(vocabulary.names, vocabulary.is_thing, first=FIRST_ID)
    images: list[dict[str, Any]] = []
    info = {"description": "labels made by CMPF, not by people", "version": __version__}
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", errors="replace") as file:
        file.write(f'{{"info": {json.dumps(info)},\n"categories": {_dumps(categories)},\n')
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


def _instance_annotations(segmentation_of: Callable[[SegmentRecord], Any]) -> AnnotationMaker:
    """Makes instance annotations with ids from 1; leaves out instances with an empty segmentation."""
    last_id = 0

    def annotations(entry: Entry, image_id: int) -> Iterator[dict[str, Any]]:
        nonlocal last_id
        for segment in entry.record.of_task(INSTANCE):
            if segmentation := segmentation_of(segment):
                last_id += 1
                yield {
                    "id": last_id,
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


def _polygons(segment: SegmentRecord) -> list[list[float]]:
    return [polygon.reshape(-1).tolist() for polygon in mask_polygons(segment.mask())]


def _dumps(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False)
