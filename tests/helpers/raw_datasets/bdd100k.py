# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The 10K images of BDD100K with panoptic bitmasks and semantic masks, as they are released."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from helpers.raw_datasets.common import blocks, photo, segment, write_id_png, write_json, write_png

NAMES = {
    "train": ("0004a4c0-d4dff0ad", "00054602-3bf57337"),
    "val": ("7d06fefd-f7be05a6", "7d128593-0ccfea4c"),
}
TRUNCATED, OCCLUDED, CROWD, IGNORED = 8, 4, 2, 1
# Blocks: category, attributes, number of the object, train id. Road in two pieces, two cars (the second with a number
# above 255), a group of persons, a car that does not count | sky, unlabeled, a caravan (no train id).
OBJECTS = (
    (7, 0, 1, 0),
    (7, OCCLUDED, 2, 0),
    (35, TRUNCATED, 3, 13),
    (35, OCCLUDED, 300, 13),
    (31, CROWD, 5, 11),
    (35, IGNORED, 6, 13),
    (30, 0, 7, 10),
    (0, 0, 0, 255),
    (36, 0, 8, 255),
)


def make_converted_bdd100k(root: Path) -> Path:
    """Panoptic PNGs and JSON of val as BDD100K's own converter leaves them; returns the JSON file.

    Images have the numbers 1..N, the names of the PNGs, and no sizes; ids count the objects of an image.
    """
    jsons = root / "bdd100k" / "jsons"
    ids = blocks(range(1, len(OBJECTS) + 1))
    category = blocks([entry[0] for entry in OBJECTS])
    images, annotations = [], []
    for number, name in enumerate(NAMES["val"], start=1):
        write_id_png(jsons / "pan_seg" / "masks" / "val" / f"{name}.png", np.where(category > 0, ids, 0))
        images.append({"id": number, "file_name": f"{name}.png"})
        segments = [
            segment(ids, place, entry[0], int(entry[1] & (CROWD | IGNORED) > 0))
            for place, entry in enumerate(OBJECTS, start=1)
            if entry[0]
        ]
        annotations.append({"image_id": number, "file_name": f"{name}.png", "segments_info": segments})
    categories = [{"id": i, "name": f"category {i}", "isthing": int(i > 30)} for i in range(1, 41)]
    content = {"type": "instances", "images": images, "annotations": annotations, "categories": categories}
    write_json(jsons / "pan_seg_val_cocofmt.json", content)
    return jsons / "pan_seg_val_cocofmt.json"


def make_bdd100k(root: Path, *, bitmasks: bool = True, masks: bool = True) -> None:
    """Images and labels of both splits.

    Args:
        bitmasks: with labels/pan_seg.
        masks: with labels/sem_seg.
    """
    folder = root / "bdd100k"
    category, attributes, number, train_id = (blocks([entry[i] for entry in OBJECTS]) for i in range(4))
    bitmask = np.stack([category, attributes, number // 256, number % 256], axis=-1)
    for split, names in NAMES.items():
        for seed, name in enumerate(names):
            photo(folder / "images" / "10k" / split / f"{name}.jpg", seed=seed)
            if bitmasks:
                labels = folder / "labels" / "pan_seg"
                write_png(labels / "bitmasks" / split / f"{name}.png", bitmask)
                write_png(labels / "colormaps" / split / f"{name}.png", bitmask[..., :3] * 5 % 256)
            if masks:
                write_png(folder / "labels" / "sem_seg" / "masks" / split / f"{name}.png", train_id)
        if bitmasks:
            write_json(folder / "labels" / "pan_seg" / "polygons" / f"pan_seg_{split}.json", [])
