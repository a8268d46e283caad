# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""COCO average precision on dicts in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cmpf.evaluation.averages import seen_groups
from cmpf.evaluation.protocol import Metrics

IoUType = Literal["segm", "bbox"]
Precision = npt.NDArray[np.float64]
_IOU_50, _IOU_75 = 0, 5  # places in COCO's thresholds 0.50, 0.55, ..., 0.95
_ALL, _SMALL, _MEDIUM, _LARGE = range(4)  # COCO's area ranges: split at 32^2 and 96^2 pixels


def coco_precision(
    images: Sequence[dict[str, Any]],
    annotations: Sequence[dict[str, Any]],
    detections: Sequence[dict[str, Any]],
    *,
    num_classes: int,
    iou_type: IoUType,
) -> Precision:
    """Interpolated precision by COCO's rules, at most 100 detections a class and image.

    Args:
        images: COCO images with `id` (int), `height`, `width`.
        annotations: COCO annotations with `category_id` 0..num_classes - 1, RLE `segmentation`, `bbox`,
            `area`, `iscrowd`; ids are assigned here.
        detections: `image_id`, `category_id`, `score` and `segmentation` (RLE) or `bbox` (x, y, w, h).
        iou_type: "segm" compares masks and "bbox" boxes; areas of detections are measured likewise.
    Returns:
        (10 IoU thresholds, 101 recalls, K, 4 area ranges), -1 where the class has no object of that area.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    if not images or not num_classes:
        return np.full((10, 101, num_classes, 4), -1.0)
    truth = COCO(
        {
            "images": list(images),
            "categories": [{"id": c, "name": str(c)} for c in range(num_classes)],
            "annotations": [{**a, "id": i} for i, a in enumerate(annotations, start=1)],
        }
    )
    # Results are loaded with one geometry only: with both, areas of masks would be taken from the boxes.
    geometry = "segmentation" if iou_type == "segm" else "bbox"
    kept = ("image_id", "category_id", "score", geometry)
    found = truth.loadRes([{key: d[key] for key in kept} for d in detections])
    evaluation = COCOeval_faster(truth, found, iouType=iou_type)
    evaluation.evaluate()
    evaluation.accumulate()
    precision: Precision = np.asarray(evaluation.eval["precision"], dtype=np.float64)
    return precision.reshape(10, 101, num_classes, 4, -1)[..., -1]


def average_precisions(
    precision: Precision, class_names: Sequence[str], seen: Sequence[bool] | None
) -> Metrics:
    """AP, AP50, AP75, APs, APm, APl (with seen flags also S_ and U_), and AP-name for each class, in percent.

    Args:
        precision: from coco_precision.
        class_names: one a class.
        seen: whether each was a training class; None = not asked.
    Returns:
        Means over all entries that are defined; NaN where none is.
    """

    def mean(part: Precision) -> float:
        defined = part[part > -1]
        return 100.0 * float(defined.mean()) if defined.size else float("nan")

    metrics: Metrics = {}
    for prefix, classes in seen_groups(seen, len(class_names)):
        part = precision[:, :, classes]
        metrics[f"{prefix}AP"] = mean(part[..., _ALL])
        metrics[f"{prefix}AP50"] = mean(part[_IOU_50, ..., _ALL])
        metrics[f"{prefix}AP75"] = mean(part[_IOU_75, ..., _ALL])
        for letter, area in (("s", _SMALL), ("m", _MEDIUM), ("l", _LARGE)):
            metrics[f"{prefix}AP{letter}"] = mean(part[..., area])
    metrics.update({f"AP-{name}": mean(precision[:, :, k, _ALL]) for k, name in enumerate(class_names)})
    return metrics
