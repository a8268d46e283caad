# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""LVIS's AP read aloud: loops over classes, thresholds, images and pairs; and random data in LVIS's form."""

from __future__ import annotations

from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

RANGES = {"": (0, 1e10), "s": (0, 32**2), "m": (32**2, 96**2), "l": (96**2, 1e10)}
LIMIT = 300


def naive_lvis(truth: dict[str, Any], results: list[dict[str, Any]], iou_type: str) -> dict[str, float]:
    """AP, AP50, AP75, APs, APm, APl, APr, APc, APf in percent of an LVIS JSON and a list of results.

    Args:
        results: with `area`; masks compressed.
    """
    kept = []
    for image in truth["images"]:
        own = [r for r in results if r["image_id"] == image["id"]]
        own = sorted(own, key=lambda r: r["score"], reverse=True)[:LIMIT]
        present = {a["category_id"] for a in truth["annotations"] if a["image_id"] == image["id"]}
        kept += [r for r in own if r["category_id"] in present | set(image["neg_category_ids"])]
    thresholds = [0.5 + 0.05 * i for i in range(10)]
    table = {
        (c["id"], i, area): _class_ap(truth, kept, c["id"], min(t, 1 - 1e-10), area, iou_type)
        for c in truth["categories"]
        for i, t in enumerate(thresholds)
        for area in RANGES
    }

    def mean(categories: list[int], places: range, area: str) -> float:
        values = [table[c, i, area] for c in categories for i in places]
        values = [v for v in values if v is not None]
        return 100 * float(np.mean(values)) if values else float("nan")

    every = [c["id"] for c in truth["categories"]]
    metrics = {
        "AP": mean(every, range(10), ""),
        "AP50": mean(every, range(1), ""),
        "AP75": mean(every, range(5, 6), ""),
        **{f"AP{area}": mean(every, range(10), area) for area in "sml"},
    }
    for letter in "rcf":
        chosen = [c["id"] for c in truth["categories"] if c["frequency"] == letter]
        metrics[f"AP{letter}"] = mean(chosen, range(10), "")
    return metrics


def _class_ap(
    truth: dict[str, Any],
    results: list[dict[str, Any]],
    category: int,
    threshold: float,
    area: str,
    iou_type: str,
) -> float | None:
    low, high = RANGES[area]
    judged: list[tuple[float, bool]] = []  # score, right; in the order of the images
    objects = 0
    for image in sorted(truth["images"], key=lambda image: image["id"]):
        true = [
            a for a in truth["annotations"] if (a["image_id"], a["category_id"]) == (image["id"], category)
        ]
        found = [r for r in results if (r["image_id"], r["category_id"]) == (image["id"], category)]
        found.sort(key=lambda r: -r["score"])
        ignored = [not low <= a["area"] <= high for a in true]
        objects += ignored.count(False)
        taken: set[int] = set()
        for result in found:
            best, best_iou = None, threshold
            # objects of another size may be taken, but only when no object of this size is good enough
            for wanted in (False, True):
                for place, entry in enumerate(true):
                    if place not in taken and ignored[place] == wanted:
                        iou = _iou(entry, result, iou_type)
                        if iou >= best_iou:
                            best, best_iou = place, iou
                if best is not None:
                    break
            if best is not None:
                taken.add(best)
                if not ignored[best]:
                    judged.append((result["score"], True))
            elif low <= result["area"] <= high and category not in image["not_exhaustive_category_ids"]:
                judged.append((result["score"], False))
    if not objects:
        return None
    judged.sort(key=lambda pair: -pair[0])
    right = np.cumsum([r for _, r in judged])
    recall = right / objects
    precision = right / np.arange(1, len(judged) + 1) if judged else right
    points = [precision[recall >= level].max(initial=0) for level in np.linspace(0, 1, 101)]
    return float(np.mean(points))


def _iou(entry: dict[str, Any], result: dict[str, Any], iou_type: str) -> float:
    if iou_type == "segm":
        return float(coco_mask.iou([result["segmentation"]], [entry["segmentation"]], [0])[0, 0])
    (x, y, w, h), (u, v, k, m) = entry["bbox"], result["bbox"]
    shared = max(min(x + w, u + k) - max(x, u), 0) * max(min(y + h, v + m) - max(y, v), 0)
    return float(shared / (w * h + k * m - shared))


def random_lvis(
    seed: int, *, images: int = 8, detections: int = 4, first_id: int = 1
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """An LVIS file of six classes of ids 10 apart, and results around its objects, with equal scores among them.

    Args:
        detections: at most so many around each object.
        first_id: id of the first image.
    """
    generator = np.random.default_rng(seed)
    letters = "rrccff"
    categories = [{"id": 10 * i + 3, "name": f"class {i}", "frequency": f} for i, f in enumerate(letters)]
    identities = [c["id"] for c in categories]
    truth: dict[str, Any] = {"images": [], "annotations": [], "categories": categories}
    results = []
    for number in range(first_id, first_id + images):
        present, negative = (v.tolist() for v in np.split(generator.permutation(identities)[:5], [3]))
        image = {"id": number, "height": 120, "width": 130, "neg_category_ids": negative}
        image["not_exhaustive_category_ids"] = [present[0]]
        truth["images"].append(image)
        for _ in range(5):
            side = int(generator.choice([10, 40, 100]))
            y, x = (int(generator.integers(0, size - side)) for size in (120, 130))
            category = int(generator.choice(present))
            entry = {"id": len(truth["annotations"]) + 1, "image_id": number, "category_id": category}
            truth["annotations"].append({**entry, **_shape(y, x, side, side)})
            for _ in range(int(generator.integers(0, detections + 1))):
                dy, dx = (int(v) for v in generator.integers(-side // 4, side // 4 + 1, size=2))
                guess = category if generator.random() < 0.7 else int(generator.choice(identities))
                score = round(float(generator.random()), 1)
                shape = _shape(max(y + dy, 0), max(x + dx, 0), side, side - 2)
                results.append({"image_id": number, "category_id": guess, "score": score, **shape})
    return truth, results


def _shape(y: int, x: int, height: int, width: int) -> dict[str, Any]:
    mask = np.zeros((120, 130), dtype=np.uint8, order="F")
    mask[y : y + height, x : x + width] = 1
    packed = coco_mask.encode(mask)
    return {
        "segmentation": {"size": packed["size"], "counts": packed["counts"].decode()},
        "bbox": [float(v) for v in coco_mask.toBbox(packed)],
        "area": float(mask.sum()),
    }
