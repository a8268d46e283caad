# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Average precision by the rules of COCO and of LVIS, on dicts in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cmpf.evaluation.evaluator import Metrics, seen_groups
from cmpf.formats.coco_json import LVIS_FREQUENCIES
from cmpf.formats.masks import rle_area

IoUType = Literal["segm", "bbox"]
Entry = dict[str, Any]
Precision = npt.NDArray[np.float64]
COCO_DETECTIONS = 100  # a class and image
LVIS_DETECTIONS = 300  # an image, all classes together
_IOU_50, _IOU_75 = 0, 5  # places in COCO's thresholds 0.50, 0.55, ..., 0.95
_ALL, _SMALL, _MEDIUM, _LARGE = range(4)  # COCO's area ranges: split at 32^2 and 96^2 pixels
# The library holds an entry for each pair of image and class; classes do not depend on each other, so they are
# worked off in groups. LVIS at once (1,203 classes, 19,809 images) would take several GB.
_PAIRS_AT_ONCE = 1_000_000


def coco_precision(
    images: Sequence[Entry],
    annotations: Sequence[Entry],
    detections: Sequence[Entry],
    *,
    num_classes: int,
    iou_type: IoUType,
    federated: bool = False,
) -> Precision:
    """Interpolated precision.

    Args:
        images: COCO images with `id` (int), `height`, `width`; for LVIS also `not_exhaustive_category_ids`.
        annotations: COCO annotations with `category_id` 0..num_classes - 1, RLE `segmentation` or `bbox` (what
            iou_type needs), `area`, `iscrowd`; ids are assigned here.
        detections: `image_id`, `category_id`, `score`, `segmentation` (RLE) or `bbox` (x, y, w, h), and `area`
            (pixels, for the area ranges; None or left out = that of what is compared).
        iou_type: "segm" compares masks and "bbox" boxes.
        federated: LVIS's rules. An unmatched detection of a class that is not labeled exhaustively in its
            image does not count, and there is no crowd. `detections` are those that federated_detections keeps.
            COCO's rules otherwise: at most 100 detections a class and image.
    Returns:
        (10 IoU thresholds, 101 recalls, K, 4 area ranges), -1 where the class has no object of that area.
    """
    precision = np.full((10, 101, num_classes, 4), -1.0)
    if not images:
        return precision
    for classes, group in _class_groups(images, annotations, detections, num_classes):
        precision[:, :, classes] = _group_precision(*group, classes, iou_type, federated)
    return precision


def federated_detections(
    scores: npt.NDArray[np.floating[Any]], classes: npt.NDArray[np.integer[Any]], judged: set[int]
) -> npt.NDArray[np.int64]:
    """Which detections of an image LVIS looks at: the 300 best, and of these the classes that can be judged.

    Args:
        scores, classes: (N,).
        judged: classes that have an object in the image, or are known to have none (`neg_category_ids`).
    Returns:
        Places in the input, best first; equal scores stay in order.
    """
    best = np.argsort(-scores, kind="stable")[:LVIS_DETECTIONS]
    kept: npt.NDArray[np.int64] = best[np.isin(classes[best], sorted(judged))]
    return kept


def _class_groups(
    images: Sequence[Entry], annotations: Sequence[Entry], detections: Sequence[Entry], num_classes: int
) -> Iterator[tuple[range, tuple[list[Entry], list[Entry], list[Entry]]]]:
    """Ranges of classes, with the images, annotations and detections that concern them."""
    step = max(1, _PAIRS_AT_ONCE // len(images))
    starts = range(0, num_classes, step)
    true_parts: list[list[Entry]] = [[] for _ in starts]
    found_parts: list[list[Entry]] = [[] for _ in starts]
    for parts, entries in ((true_parts, annotations), (found_parts, detections)):
        for entry in entries:
            parts[entry["category_id"] // step].append(entry)
    for start, truth, found in zip(starts, true_parts, found_parts, strict=True):
        concerned = {entry["image_id"] for entry in (*truth, *found)}
        chosen = [image for image in images if image["id"] in concerned]
        if truth:  # classes without an object stay undefined
            yield range(start, min(start + step, num_classes)), (chosen, truth, found)


def _group_precision(
    images: Sequence[Entry],
    annotations: Sequence[Entry],
    detections: Sequence[Entry],
    classes: range,
    iou_type: IoUType,
    federated: bool,
) -> Precision:
    """(10, 101, classes, 4) of a range of classes."""
    from faster_coco_eval import COCO, COCOeval_faster

    # The library only needs a frequency to be there; APr, APc and APf are computed by average_precisions.
    categories = [{"id": c, "name": str(c), "frequency": "f"} for c in classes]
    crowd = {"iscrowd": 0} if federated else {}
    truth, found = (
        COCO({"images": list(images), "categories": categories, "annotations": entries})
        for entries in (
            [{**a, **crowd, "id": i} for i, a in enumerate(annotations, start=1)],
            [_detection(d, i, iou_type) for i, d in enumerate(detections, start=1)],
        )
    )
    evaluation = COCOeval_faster(truth, found, iouType=iou_type, lvis_style=federated)
    evaluation.params.maxDets = [LVIS_DETECTIONS if federated else COCO_DETECTIONS]
    evaluation.evaluate()
    evaluation.accumulate()
    precision: Precision = np.asarray(evaluation.eval["precision"], dtype=np.float64)
    return precision.reshape(10, 101, len(classes), 4)


def _detection(detection: Entry, number: int, iou_type: IoUType) -> Entry:
    """A detection with one geometry only, and the area of what is compared unless it brings its own."""
    geometry = "segmentation" if iou_type == "segm" else "bbox"
    area = detection.get("area")
    if area is None and iou_type == "segm":
        area = float(rle_area(detection["segmentation"]))
    elif area is None:
        area = detection["bbox"][2] * detection["bbox"][3]
    kept = {key: detection[key] for key in ("image_id", "category_id", "score", geometry)}
    return {**kept, "id": number, "area": area, "iscrowd": 0}


def average_precisions(
    precision: Precision,
    class_names: Sequence[str],
    seen: Sequence[bool] | None,
    frequencies: Sequence[str] | None = None,
) -> Metrics:
    """AP, AP50, AP75, APs, APm, APl (with seen flags also S_ and U_), and AP-name for each class, in percent.

    Args:
        precision: from coco_precision.
        class_names: one per class.
        seen: whether each was a training class; None = not asked.
        frequencies: "r", "c" or "f" for each class; with them also APr, APc and APf.
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
    for letter in LVIS_FREQUENCIES if frequencies is not None else ():
        group = np.array([frequency == letter for frequency in frequencies or ()], dtype=bool)
        metrics[f"AP{letter}"] = mean(precision[:, :, group, _ALL])
    metrics.update({f"AP-{name}": mean(precision[:, :, k, _ALL]) for k, name in enumerate(class_names)})
    return metrics
