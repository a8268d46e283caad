# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Images and label maps of the synthetic raw trees."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

HEIGHT, WIDTH = 64, 96
Labels = npt.NDArray[np.int64]


def photo(path: Path, seed: int, *, height: int = HEIGHT, width: int = WIDTH) -> None:
    """Writes a smooth colored JPEG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 6, 3)).astype(np.uint8)
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR).save(path, quality=90)


def blocks(values: Sequence[int], *, height: int = HEIGHT, width: int = WIDTH, columns: int = 3) -> Labels:
    """(H, W) map: a grid of equal blocks that hold `values` in reading order."""
    rows = -(-len(values) // columns)
    y, x = np.arange(height) * rows // height, np.arange(width) * columns // width
    padded = np.array([*values, *[values[-1]] * (rows * columns - len(values))], dtype=np.int64)
    return padded[y[:, None] * columns + x[None, :]]


def write_png(path: Path, values: npt.NDArray[Any], dtype: type = np.uint8) -> None:
    """Writes (H, W) or (H, W, C) values losslessly."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(dtype)).save(path)


def write_palette_png(path: Path, values: Labels) -> None:
    """Writes (H, W) palette indices, with colors as the releases have them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values.astype(np.uint8)).convert("P")
    image.putdata(values.ravel().tolist())
    image.putpalette([(37 * index + 11 * channel) % 256 for index in range(256) for channel in range(3)])
    image.save(path)


def write_id_png(path: Path, ids: Labels) -> None:
    """Writes segment ids as R + 256 G + 65536 B."""
    write_png(path, np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1))


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


@cache
def released(name: str) -> Any:
    """Category names as the releases write them, by the key of names.json."""
    return json.loads((Path(__file__).parent / "names.json").read_text(encoding="utf-8"))[name]


def segment(ids: Labels, identity: int, category: int, iscrowd: int = 0) -> dict[str, Any]:
    """An entry of segments_info."""
    rows, columns = np.nonzero(ids == identity)
    y, x = int(rows.min()), int(columns.min())
    return {
        "id": identity,
        "category_id": category,
        "iscrowd": iscrowd,
        "bbox": [x, y, int(columns.max()) - x + 1, int(rows.max()) - y + 1],
        "area": len(rows),
    }


def polygon(mask: npt.NDArray[np.bool_]) -> list[list[float]]:
    """The outline of a rectangular mask."""
    rows, columns = np.nonzero(mask)
    x0, y0, x1, y1 = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    return [[float(v) for v in (x0, y0, x1, y0, x1, y1, x0, y1)]]


def uncompressed_rle(mask: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """COCO's form for crowds: runs in column order, the first one of zeros."""
    flat = mask.ravel(order="F").astype(np.int8)
    edges = np.flatnonzero(np.diff(flat, prepend=0)) if flat.size else []
    counts = np.diff([0, *edges, flat.size]).tolist()
    return {"counts": counts, "size": list(mask.shape)}
