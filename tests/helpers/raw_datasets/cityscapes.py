# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""leftImg8bit and gtFine of Cityscapes as they are released."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from helpers.raw_datasets.common import HEIGHT, WIDTH, blocks, photo, write_json, write_png

NAMES = {
    "train": ("aachen_000000_000019", "aachen_000001_000019", "zurich_000000_000019"),
    "val": ("frankfurt_000000_000294", "munster_000000_000019"),
}
# Blocks: label in the polygons, label id, value of instanceIds. License plates are not drawn.
OBJECTS = (
    ("road", 7, 7),
    ("car", 26, 26001),
    ("car", 26, 26002),
    ("cargroup", 26, 26),
    ("license plate", 0, 0),
    ("out of roi", 3, 3),
    ("person", 24, 24000),
    ("trailer", 30, 30000),
    ("bicycle", 33, 33012),
)
COLUMNS, ROWS = 3, 3


def make_cityscapes(root: Path) -> None:
    """Images and fine annotations of train and val."""
    folder = root / "cityscapes"
    labels, instances = (blocks([entry[i] for entry in OBJECTS]) for i in (1, 2))
    for split, names in NAMES.items():
        for seed, name in enumerate(names):
            town = name.split("_")[0]
            photo(folder / "leftImg8bit" / split / town / f"{name}_leftImg8bit.png", seed=seed)
            stem = folder / "gtFine" / split / town / f"{name}_gtFine"
            write_png(Path(f"{stem}_labelIds.png"), labels)
            write_png(Path(f"{stem}_instanceIds.png"), instances, np.uint16)
            write_png(Path(f"{stem}_color.png"), np.stack([labels, labels, labels, labels], axis=-1))
            write_json(Path(f"{stem}_polygons.json"), _polygons())


def _polygons() -> dict[str, Any]:
    """The outlines of the blocks, as PIL fills them: the last row and column are inside."""
    grid = blocks(range(len(OBJECTS)))
    objects = []
    for index, (label, _, _) in enumerate(OBJECTS):
        rows, columns = np.nonzero(grid == index)
        x0, y0, x1, y1 = (int(v) for v in (columns.min(), rows.min(), columns.max(), rows.max()))
        objects.append({"label": label, "polygon": [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]})
    return {"imgHeight": HEIGHT, "imgWidth": WIDTH, "objects": objects}
