# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Tiny datasets on disk in COCO panoptic layout, and panoptic quality read aloud."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from helpers.evaluation_data import write_ids
from PIL import Image
from pycocotools import mask as coco_mask

from cmpf.data.vocabulary import Vocabulary

Ids = npt.NDArray[np.int64]
# Dataset ids with gaps, as in COCO; the contiguous index is the place in this list.
CATEGORIES: tuple[dict[str, Any], ...] = (
    {"id": 3, "name": "cat", "isthing": 1},
    {"id": 7, "name": "dog", "isthing": 1},
    {"id": 20, "name": "grass", "isthing": 0},
)


@dataclass(frozen=True)
class TinyPanoptic:
    """Where the files are, and what they hold.

    ids: segment ids (H, W) of each image; segment 1000 * n + k is the k-th of image n (from 1); 0 = void.
    images: uint8 RGB (H, W, 3) of each image; files are PNG and hold exactly these.
    """

    folder: Path
    vocabulary: Vocabulary
    ids: tuple[Ids, ...]
    images: tuple[npt.NDArray[np.uint8], ...]

    @property
    def reader_arguments(self) -> dict[str, Any]:
        """Keyword arguments of cmpf.data.datasets.readers.read_coco_panoptic."""
        return {
            "images": self.folder / "images",
            "annotations": self.folder / "panoptic.json",
            "panoptic": self.folder / "panoptic",
            "semantic": self.folder / "semantic",
            "instances": self.folder / "instances.json",
            "vocabulary": self.vocabulary,
        }


def write_tiny_panoptic(
    folder: Path, *, count: int = 3, size: tuple[int, int] = (24, 32), crowd: bool = False, seed: int = 0
) -> TinyPanoptic:
    """Writes images/N.png, panoptic/N.png, panoptic.json, instances.json and semantic/N.png for N = 1..count.

    Each image: grass below a void strip of two rows, a dog and a cat as rectangles (the cat on top), and if
    asked a crowd of dogs in the lower right corner. Class indices are 0 cat, 1 dog, 2 grass; the ids in the
    JSON files are those of CATEGORIES.

    Args:
        size: (H, W) of all images, at least (8, 8).
    """
    generator = np.random.default_rng(seed)
    for name in ("images", "panoptic", "semantic"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    images, all_ids = [], []
    tables: dict[str, list[dict[str, Any]]] = {"images": [], "panoptic": [], "instances": []}
    for number in range(1, count + 1):
        ids = _scene(generator, size, first=1000 * number, crowd=crowd)
        image = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(image).save(folder / "images" / f"{number}.png")
        write_ids(folder / "panoptic" / f"{number}.png", ids)
        labels = np.full(size, 255, dtype=np.uint8)
        for name, index in ((3, 0), (2, 1), (4, 1), (1, 2)):
            labels[ids == 1000 * number + name] = index
        Image.fromarray(labels).save(folder / "semantic" / f"{number}.png")
        _record(tables, number, ids)
        images.append(image)
        all_ids.append(ids)
    write_json(
        folder / "panoptic.json",
        images=tables["images"],
        annotations=tables["panoptic"],
        categories=CATEGORIES,
    )
    write_json(
        folder / "instances.json",
        images=tables["images"],
        annotations=tables["instances"],
        categories=[category for category in CATEGORIES if category["isthing"]],
    )
    words = Vocabulary(classes=[["cat", "kitten"], ["dog"], ["grass", "lawn"]], things=[0, 1])
    return TinyPanoptic(folder, words, tuple(all_ids), tuple(images))


def write_json(path: Path, **content: Sequence[dict[str, Any]]) -> None:
    """Writes keyword arguments as a JSON object."""
    path.write_text(json.dumps(content))


def _scene(generator: np.random.Generator, size: tuple[int, int], *, first: int, crowd: bool) -> Ids:
    height, width = size
    ids = np.full(size, first + 1, dtype=np.int64)
    ids[:2] = 0
    for name in (2, 3):
        y, x = generator.integers(2, height // 2), generator.integers(0, width // 2)
        ids[y : y + height // 4, x : x + width // 4] = first + name
    if crowd:
        ids[-2:, -3:] = first + 4
    return ids


def _record(tables: dict[str, list[dict[str, Any]]], number: int, ids: Ids) -> None:
    height, width = ids.shape
    segments = []
    for name, category in ((1, 20), (2, 7), (3, 3), (4, 7)):
        mask = ids == 1000 * number + name
        if not mask.any():
            continue
        ys, xs = np.nonzero(mask)
        x, y = int(xs.min()), int(ys.min())
        entry = {
            "id": 1000 * number + name,
            "category_id": category,
            "iscrowd": int(name == 4),
            "area": int(mask.sum()),
            "bbox": [x, y, int(xs.max()) - x + 1, int(ys.max()) - y + 1],
        }
        segments.append(entry)
        if category != 20:
            rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
            shape = {"size": [height, width], "counts": rle["counts"].decode("ascii")}
            tables["instances"].append({**entry, "image_id": number, "segmentation": shape})
    tables["images"].append({"id": number, "file_name": f"{number}.png", "height": height, "width": width})
    annotation = {"image_id": number, "file_name": f"{number}.png", "segments_info": segments}
    tables["panoptic"].append(annotation)


Panoptic = tuple[npt.NDArray[np.int64], Sequence[Any]]  # ids (H, W), 0 = void; segments of it


def naive_quality(pairs: Sequence[tuple[Panoptic, Panoptic]], classes: Sequence[int]) -> dict[str, float]:
    """PQ, SQ, RQ in percent over some classes.

    Args:
        pairs: ground truth and prediction of each image; at most one crowd a class and image.
    """
    counts: dict[int, list[float]] = defaultdict(lambda: [0.0, 0, 0, 0])
    for (true_ids, true_segments), (ids, segments) in pairs:
        matched_true, matched = set(), set()
        void = true_ids == 0
        for t in true_segments:
            for p in segments:
                if t["iscrowd"] or t["category_id"] != p["category_id"]:
                    continue
                a, b = true_ids == t["id"], ids == p["id"]
                iou = (a & b).sum() / (a | (b & ~void)).sum()
                if iou > 0.5:
                    counts[t["category_id"]][0] += iou
                    counts[t["category_id"]][1] += 1
                    matched_true.add(t["id"])
                    matched.add(p["id"])
        for t in true_segments:
            if t["id"] not in matched_true and not t["iscrowd"]:
                counts[t["category_id"]][3] += 1
        for p in segments:
            mask = ids == p["id"]
            crowd = np.isin(
                true_ids,
                [t["id"] for t in true_segments if t["iscrowd"] and t["category_id"] == p["category_id"]],
            )
            if p["id"] not in matched and (mask & (void | crowd)).sum() / mask.sum() <= 0.5:
                counts[p["category_id"]][2] += 1
    rows = [counts[c] for c in classes if c in counts and sum(counts[c][1:])]
    if not rows:
        return {"PQ": math.nan, "SQ": math.nan, "RQ": math.nan}
    return {
        "PQ": 100 * float(np.mean([i / (tp + fp / 2 + fn / 2) for i, tp, fp, fn in rows])),
        "SQ": 100 * float(np.mean([i / tp if tp else 0.0 for i, tp, _, _ in rows])),
        "RQ": 100 * float(np.mean([tp / (tp + fp / 2 + fn / 2) for _, tp, fp, fn in rows])),
    }
