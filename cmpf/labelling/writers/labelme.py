# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""LabelMe's files, in which people correct masks by hand."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from cmpf.common.files import replacing
from cmpf.formats.polygons import mask_polygons
from cmpf.labelling.journal import Entry
from cmpf.labelling.record import INSTANCE

VERSION = "5.5.0"  # of the files; LabelMe reads those of other versions, too


def write_shapes(entry: Entry, folder: Path) -> list[Path]:
    """labelme/NAME.json: a polygon for each part of an instance; those of one instance have one group_id."""
    record = entry.record
    path = folder / "labelme" / f"{entry.name}.json"
    local = "://" not in record.uri
    shapes = [
        {
            "label": segment.category,
            "points": polygon.tolist(),
            "group_id": segment.id,
            "description": f"score {segment.score:.3f}",
            "shape_type": "polygon",
            "flags": {},
            "mask": None,
        }
        for segment in record.of_task(INSTANCE)
        for polygon in mask_polygons(segment.mask())
    ]
    content: dict[str, Any] = {
        "version": VERSION,
        "flags": {},
        "shapes": shapes,
        "imagePath": os.path.relpath(record.uri, path.parent) if local else record.uri,
        "imageData": None,
        "imageHeight": record.height,
        "imageWidth": record.width,
    }
    with replacing(path, durable=False) as temporary:
        temporary.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8", errors="replace")
    return [path]
