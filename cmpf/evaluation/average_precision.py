# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Average precision by the rules of COCO and LVIS, with faster-coco-eval."""

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
COCO_DETECTIONS = 100  # per class and image
LVIS_DETECTIONS = 300  # per image, over all classes
_IOU_50, _IOU_75 = 0, 5  # indices in COCO's thresholds 0.50, 0.55, ..., 0.95
_ALL, _SMALL, _MEDIUM, _LARGE = range(4)  # COCO's area ranges: split at 32^2 and 96^2 pixels
# The library stores an entry for each pair of image and class. Classes are independent, so they are evaluated in
# chunks of at most this many pairs; LVIS in one chunk (1,203 classes, 19,809 images) would take several GB.
_MAX_PAIRS = 1_000_000


def coco_precision(
    images: Sequence[Entry],
    annotations: Sequence[Entry],
    detections: Sequence[Entry],
    *,
    num_classes: int,
    iou_type: IoUType,
    federated: bool = False,
) -> Precision:
    """Computes the interpolated precision.

    Args:
        images: COCO images with `id` (int), `height`, `width`; for LVIS also `not_exhaustive_category_ids`.
        annotations: COCO annotations with `category_id` 0..num_classes - 1, RLE `segmentation` or `bbox` (as iou_type
            needs), `area` and `iscrowd`; ids are assigned here.
        detections: `image_id`, `category_id`, `score`, `segmentation` (RLE) or `bbox` (x, y, w, h), and `area` in
            pixels for the area ranges (None or missing = area of the mask or box).
        iou_type: "segm" compares masks and "bbox" boxes.
        federated: use LVIS's rules: an unmatched detection of a class that is not exhaustively annotated in its image
            is ignored, there are no crowds, and `detections` must be filtered by federated_detections. False = COCO's
            rules, with at most 100 detections per class and image.
    Returns:
        (10 IoU thresholds, 101 recalls, K, 4 area ranges), -1 where a class has no object in an area range.
    """
    precision = np.full((10, 101, num_classes, 4), -1.0)
    if not images:
        return precision
    for classes, chunk in _class_chunks(images, annotations, detections, num_classes):
        precision[:, :, classes] = _chunk_precision(*chunk, classes, iou_type, federated)
    return precision


def federated_detections(
    scores: npt.NDArray[np.floating[Any]], classes: npt.NDArray[np.integer[Any]], labeled: set[int]
) -> npt.NDArray[np.int64]:
    """Selects the detections of an image that LVIS evaluates: of the 300 best, those of labeled classes.

    Args:
        scores, classes: (N,).
        labeled: classes that have an object in the image, or are known to be absent (`neg_category_ids`).
    Returns:
        Indices of the selected detections, best first; equal scores keep their order.
    """
    best = np.argsort(-scores, kind="stable")[:LVIS_DETECTIONS]
    selected: npt.NDArray[np.int64] = best[np.isin(classes[best], sorted(labeled))]
    return selected


def _class_chunks(
    images: Sequence[Entry], annotations: Sequence[Entry], detections: Sequence[Entry], num_classes: int
) -> Iterator[tuple[range, tuple[list[Entry], list[Entry], list[Entry]]]]:
    """Yields ranges of classes with their images, annotations and detections."""
    step = max(1, _MAX_PAIRS // len(images))
    starts = range(0, num_classes, step)
    annotation_chunks: list[list[Entry]] = [[] for _ in starts]
    detection_chunks: list[list[Entry]] = [[] for _ in starts]
    for chunks, entries in ((annotation_chunks, annotations), (detection_chunks, detections)):
        for entry in entries:
            chunks[entry["category_id"] // step].append(entry)
    for start, truth, detected in zip(starts, annotation_chunks, detection_chunks, strict=True):
        image_ids = {entry["image_id"] for entry in (*truth, *detected)}
        chunk_images = [image for image in images if image["id"] in image_ids]
        if truth:  # classes without objects stay undefined
            yield range(start, min(start + step, num_classes)), (chunk_images, truth, detected)


def _chunk_precision(
    images: Sequence[Entry],
    annotations: Sequence[Entry],
    detections: Sequence[Entry],
    classes: range,
    iou_type: IoUType,
    federated: bool,
) -> Precision:
    """Precision (10, 101, classes, 4) of a range of classes."""
    from faster_coco_eval import COCO, COCOeval_faster

    # The library requires a frequency; APr, APc and APf are computed by average_precisions.
    categories = [{"id": c, "name": str(c), "frequency": "f"} for c in classes]
    crowd = {"iscrowd": 0} if federated else {}
    truth, detected = (
        COCO({"images": list(images), "categories": categories, "annotations": entries})
        for entries in (
            [{**a, **crowd, "id": i} for i, a in enumerate(annotations, start=1)],
            [_detection(d, i, iou_type) for i, d in enumerate(detections, start=1)],
        )
    )
    evaluation = COCOeval_faster(truth, detected, iouType=iou_type, lvis_style=federated)
    evaluation.params.maxDets = [LVIS_DETECTIONS if federated else COCO_DETECTIONS]
    evaluation.evaluate()
    evaluation.accumulate()
    precision: Precision = np.asarray(evaluation.eval["precision"], dtype=np.float64)
    return precision.reshape(10, 101, len(classes), 4)


def _detection(detection: Entry, detection_id: int, iou_type: IoUType) -> Entry:
    """A detection with only its mask or its box, and with an area."""
    geometry = "segmentation" if iou_type == "segm" else "bbox"
    area = detection.get("area")
    if area is None and iou_type == "segm":
        area = float(rle_area(detection["segmentation"]))
    elif area is None:
        area = detection["bbox"][2] * detection["bbox"][3]
    kept = {key: detection[key] for key in ("image_id", "category_id", "score", geometry)}
    return {**kept, "id": detection_id, "area": area, "iscrowd": 0}


def average_precisions(
    precision: Precision,
    class_names: Sequence[str],
    seen: Sequence[bool] | None,
    frequencies: Sequence[str] | None = None,
) -> Metrics:
    """AP, AP50, AP75, APs, APm, APl (with seen flags also S_ and U_), and AP-name of each class, in percent.

    Args:
        precision: from coco_precision.
        class_names: (K,) names.
        seen: (K,) whether each class was seen in training; None = no metrics for seen and unseen classes.
        frequencies: (K,) "r", "c" or "f", for APr, APc and APf; None = these are not computed.
    Returns:
        Means over all defined entries; NaN where there are none.
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
