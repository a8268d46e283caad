# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Panoptic quality read aloud: loops over segments and sets of pixels."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

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
