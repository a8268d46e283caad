# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Mapillary Vistas v1.2 as it is released, alone or inside the package of v2.0."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from helpers.raw_datasets.common import (
    HEIGHT,
    WIDTH,
    blocks,
    photo,
    released,
    segment,
    write_id_png,
    write_json,
    write_palette_png,
    write_png,
)

KEYS = {
    "training": ("__CRyFzoDOXn6unQ6a3DnQ", "_0v9lKtpQZjyHIzYHrRzkw"),
    "validation": ("0035fkbjWljhaftpVM37-g",),
}
# Segments: category id (1-based), segment id; 0 = unlabeled. Road, two cars, sky, ego vehicle.
SEGMENTS = ((14, 1118481), (56, 4342338), (56, 4342339), (28, 8421504), (0, 0), (65, 7895160))
UNLABELED = 65


def make_mapillary_vistas(root: Path, *, package: str = "v1.2") -> None:
    """Images, labels, instances and panoptic annotations of both splits.

    Args:
        package: "v1.2", or "v2.0", which keeps all but the images one folder deeper.
    """
    things = released("mapillary_vistas_things")
    ids = blocks([identity for _, identity in SEGMENTS])
    labels = blocks([category - 1 if category else UNLABELED for category, _ in SEGMENTS])
    for split, keys in KEYS.items():
        place = root / "mapillary_vistas" / split
        folder = place / "v1.2" if package == "v2.0" else place
        for seed, key in enumerate(keys):
            photo(place / "images" / f"{key}.jpg", seed=seed)
            write_palette_png(folder / "labels" / f"{key}.png", labels)
            write_png(folder / "instances" / f"{key}.png", labels * 256, np.uint16)
            write_id_png(folder / "panoptic" / f"{key}.png", ids)
        segments = [segment(ids, identity, category) for category, identity in SEGMENTS if identity]
        write_json(
            folder / "panoptic" / "panoptic_2018.json",
            {
                "images": [
                    {"id": key, "file_name": f"{key}.jpg", "height": HEIGHT, "width": WIDTH} for key in keys
                ],
                "annotations": [
                    {"image_id": key, "file_name": f"{key}.png", "segments_info": segments} for key in keys
                ],
                "categories": [
                    {
                        "id": i,
                        "name": word,
                        "isthing": int(i in things),
                        "supercategory": "",
                    }
                    for i, word in enumerate(released("mapillary_vistas"), start=1)
                ],
            },
        )
