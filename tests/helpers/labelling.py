# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Images to label, and the tiny model, loaded once a process, at a size that a test can wait for."""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cmpf.integrations import Labeler
from cmpf.labelling.inputs import divide, read_shard
from cmpf.labelling.parquet import find_parts, read_parquet
from cmpf.labelling.record import ImageRecord

WORDS = "red circle; blue square; sky"
SMALL = (
    "INPUT.MIN_SIZE_TEST",
    64,
    "INPUT.MAX_SIZE_TEST",
    128,
    "TEST.ENSEMBLE.ENABLED",
    False,
    "NUM_THREADS",
    1,
)
OPTIONS: dict[str, Any] = {"device": "cpu", "overrides": SMALL}


@lru_cache(maxsize=1)
def labeler() -> Labeler:
    return Labeler("cmpf_tiny", WORDS, **OPTIONS)


def picture(seed: int, height: int = 48, width: int = 64) -> np.ndarray[Any, Any]:
    """(H, W, 3) uint8: a sky with a red circle at a place of its own."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    radius = height // 4
    top, left = rng.integers(radius, height - radius), rng.integers(radius, width - radius)
    image = np.full((height, width, 3), (120, 180, 250), np.uint8) + rng.integers(
        0, 5, (height, width, 3), np.uint8
    )
    image[(y - top) ** 2 + (x - left) ** 2 < radius**2] = (220, 20, 20)
    return image


def encoded(seed: int, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture(seed)).save(buffer, kind, **options)
    return buffer.getvalue()


def write_pictures(folder: Path, count: int, start: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(start, start + count):
        (folder / f"{seed:04}.png").write_bytes(encoded(seed))
    return folder


def expected_records(photos: Path | str, count: int = 1) -> list[ImageRecord]:
    """Records of images, in the order of their `count` shards."""
    shards = divide([str(photos)], count=count)
    return [record for shard in shards for record in labeler().records(read_shard(shard))]


def written_records(output: Path) -> list[ImageRecord]:
    """Records of all Parquet files of a folder, in the order of the files."""
    return [record for part in find_parts(output) for record in read_parquet(part)]
