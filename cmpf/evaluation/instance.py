# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Instance segmentation evaluators: average precision of masks and boxes, by the rules of COCO and LVIS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cmpf.errors import DatasetError, EvaluationError
from cmpf.evaluation.average_precision import (
    IoUType,
    Precision,
    average_precisions,
    coco_precision,
    federated_detections,
)
from cmpf.evaluation.evaluator import (
    ImageId,
    Metrics,
    Results,
    check_new_image,
    check_size,
    describe,
    gather_by_image,
    paired,
    required,
    to_array,
    to_finite,
    to_integers,
    to_masks,
)
from cmpf.formats.coco_json import LVIS_FREQUENCIES, LVIS_LISTS, NEGATIVE, read_coco
from cmpf.formats.masks import encode_mask, rle_area, rle_box, to_rle
from cmpf.types import InstanceResult, ModelResult, Sample

Masks = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _ImageRecord:
    """Ground truth and detections of one image, with masks as compressed RLE.

    image_fields: additional fields of the COCO image entry.
    """

    height: int
    width: int
    annotations: list[dict[str, Any]]
    detections: list[dict[str, Any]]
    image_fields: dict[str, Any] = field(default_factory=dict)


class InstanceEvaluator:
    """Evaluates AP by COCO's rules from `outputs["instances"]`, for masks ("segm") and boxes ("bbox").

    The ground truth is the sample's `annotations`: COCO instance annotations with contiguous class indices. For APs,
    APm and APl, the area of a detection is that of its mask in "segm" and of its box in "bbox".
    """

    _federated = False  # see coco_precision

    def __init__(
        self,
        *,
        class_names: Sequence[str],
        seen: Sequence[bool] | None = None,
        iou_types: Sequence[IoUType] = ("segm", "bbox"),
    ) -> None:
        """
        Args:
            class_names: names in the order of the class indices; classes without objects are not averaged.
            seen: (K,) whether each class was seen in training; None = no metrics for seen and unseen classes.
            iou_types: "segm" for masks, "bbox" for boxes; each is one task of the results.
        """
        self._names = tuple(class_names)
        self._seen = seen
        self._iou_types = tuple(iou_types)
        self._records: dict[ImageId, _ImageRecord] = {}

    def reset(self) -> None:
        """Clears all images."""
        self._records = {}

    def process(self, inputs: Sequence[Sample], outputs: Sequence[ModelResult]) -> None:
        """Adds a batch; see Evaluator."""
        for sample, instances in paired(inputs, outputs, "instances"):
            height, width = required(sample, "height"), required(sample, "width")
            annotations = [self._annotation(sample, a) for a in required(sample, "annotations")]
            detections = self._detections(sample, instances)
            record = _ImageRecord(height, width, annotations, detections, self._image_fields(sample))
            check_new_image(image_id := required(sample, "image_id"), self._records, describe(sample))
            self._records[image_id] = record

    def _image_fields(self, sample: Sample) -> dict[str, Any]:
        """Additional fields of the COCO image entry."""
        return {}

    def _evaluated_detections(
        self, sample: Sample, scores: npt.NDArray[np.float64], classes: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        """Indices of the detections that are evaluated."""
        return np.arange(len(scores))

    def _annotation(self, sample: Sample, annotation: dict[str, Any]) -> dict[str, Any]:
        self._check_class(sample, "annotation", annotation["category_id"])
        rle = to_rle(
            annotation["segmentation"],
            height=sample["height"],
            width=sample["width"],
            where=f"{describe(sample)}: a ground-truth mask",
        )
        return {
            "category_id": annotation["category_id"],
            "segmentation": rle,
            "bbox": list(annotation["bbox"]) if "bbox" in annotation else rle_box(rle),
            "area": float(annotation.get("area", rle_area(rle))),
            "iscrowd": int(annotation.get("iscrowd", 0)),
        }

    def _detections(self, sample: Sample, instances: InstanceResult) -> list[dict[str, Any]]:
        masks, boxes, scores, classes = checked_instances(sample, instances)
        for category in np.unique(classes).tolist():
            self._check_class(sample, "prediction", category)
        detections = []
        for index in self._evaluated_detections(sample, scores, classes).tolist():
            x0, y0, x1, y1 = boxes[index].tolist()
            detections.append(
                {
                    "category_id": int(classes[index]),
                    "score": float(scores[index]),
                    "segmentation": encode_mask(masks[index]),
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                }
            )
        return detections

    def _check_class(self, sample: Sample, side: str, category: int) -> None:
        if not 0 <= category < len(self._names):
            raise EvaluationError(
                f"{describe(sample)}: {side} with class index {category}; this vocabulary has "
                f"0..{len(self._names) - 1} (contiguous indices, not dataset ids)"
            )

    def evaluate(self) -> Results:
        """Returns {"segm": {AP, AP50, AP75, APs, APm, APl, S_AP, U_AP, ..., AP-name}, "bbox": {...}} in percent."""
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        detections: list[dict[str, Any]] = []
        # faster-coco-eval needs integer image ids; ours may be strings.
        for image_id, record in enumerate(gather_by_image(self._records).values(), start=1):
            size = {"height": record.height, "width": record.width}
            images.append({"id": image_id, **size, **record.image_fields})
            annotations += [{**a, "image_id": image_id} for a in record.annotations]
            detections += [{**d, "image_id": image_id} for d in record.detections]
        results: Results = {}
        for iou_type in self._iou_types:
            precision = coco_precision(
                images,
                annotations,
                detections,
                num_classes=len(self._names),
                iou_type=iou_type,
                federated=self._federated,
            )
            results[iou_type] = self._metrics(precision)
        return results

    def _metrics(self, precision: Precision) -> Metrics:
        return average_precisions(precision, self._names, self._seen)


def checked_instances(sample: Sample, instances: InstanceResult) -> tuple[Masks, Numbers, Numbers, Ids]:
    """Validates a prediction and returns its masks (N, H, W), boxes (N, 4) xyxy, scores (N,) and class indices (N,).

    Raises:
        EvaluationError: the numbers of entries differ, the masks do not have the size of the sample, or a value is
            invalid.
    """
    where = describe(sample)
    size = (required(sample, "height"), required(sample, "width"))
    masks, boxes = to_array(instances.pred_masks), to_array(instances.pred_boxes)
    scores, classes = to_array(instances.scores), to_array(instances.pred_classes)
    lengths = {"masks": len(masks), "boxes": len(boxes), "scores": len(scores), "classes": len(classes)}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{count} {name}" for name, count in lengths.items())
        raise EvaluationError(f"{where}: {counts}; expected one of each for every detection")
    check_size(where, masks.shape[1:], size)
    return (
        to_masks(masks, f"{where}: predicted masks"),
        to_finite(boxes, f"{where}: predicted boxes"),
        to_finite(scores, f"{where}: scores"),
        to_integers(classes, f"{where}: predicted classes"),
    )


class LVISEvaluator(InstanceEvaluator):
    """Evaluates AP, APr, APc and APf (Gupta et al., LVIS, section 3.3) from `outputs["instances"]`.

    Evaluates the 300 best detections of an image over all classes, and of these only classes with an object in the
    image or known to be absent. The ground truth is the sample's `annotations`, `neg_category_ids` and
    `not_exhaustive_category_ids`, all with contiguous class indices.
    """

    _federated = True

    def __init__(
        self,
        *,
        class_names: Sequence[str],
        frequencies: Sequence[str],
        seen: Sequence[bool] | None = None,
        iou_types: Sequence[IoUType] = ("segm", "bbox"),
    ) -> None:
        """
        Args:
            class_names, seen, iou_types: see InstanceEvaluator.
            frequencies: for each class "r" (rare: in at most 10 training images), "c" (common: at most 100) or "f"
                (frequent).
        Raises:
            EvaluationError: not one frequency per class, or an unknown letter.
        """
        super().__init__(class_names=class_names, seen=seen, iou_types=iou_types)
        self._frequencies = tuple(frequencies)
        unknown = sorted({repr(f) for f in self._frequencies if f not in LVIS_FREQUENCIES})
        if unknown or len(self._frequencies) != len(self._names):
            raise EvaluationError(
                f"{len(self._frequencies)} frequencies for {len(self._names)} classes"
                f"{', unknown ' + ', '.join(unknown) if unknown else ''}; give r, c or f for each class"
            )

    def _image_fields(self, sample: Sample) -> dict[str, Any]:
        fields = {key: [int(c) for c in required(sample, key)] for key in LVIS_LISTS}
        for key, categories in fields.items():
            for category in categories:
                self._check_class(sample, key, category)
        return fields

    def _evaluated_detections(
        self, sample: Sample, scores: npt.NDArray[np.float64], classes: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        present = {annotation["category_id"] for annotation in required(sample, "annotations")}
        return federated_detections(scores, classes, present | set(required(sample, NEGATIVE)))

    def _metrics(self, precision: Precision) -> Metrics:
        return average_precisions(precision, self._names, self._seen, self._frequencies)


def read_frequencies(
    path: str | Path, *, num_classes: int, class_of_id: Mapping[int, int] | None = None
) -> tuple[str, ...]:
    """Reads the `frequency` of each class from an LVIS JSON file.

    The frequency is defined by the number of training images, so it cannot be computed from validation images.

    Args:
        class_of_id: category id -> class index; None = classes are in the order of the category ids.
    Returns:
        (K,) "r", "c" or "f"; "f" for a class that is not in the file and therefore has no objects.
    Raises:
        EvaluationError: the file cannot be read, or a category has no frequency or no class.
    """
    try:
        categories = read_coco(path, ["categories"])["categories"]
        frequency_of = {int(category["id"]): str(category["frequency"]) for category in categories}
    except (DatasetError, ValueError, KeyError, TypeError) as error:
        raise EvaluationError(
            f"{path}: no LVIS v1 annotations with a `frequency` in each category "
            f"({type(error).__name__}: {error}); use lvis_v1_val.json as published"
        ) from error
    index_of = class_of_id or {category: index for index, category in enumerate(sorted(frequency_of))}
    frequencies = ["f"] * num_classes
    for category, frequency in frequency_of.items():
        if not 0 <= index_of.get(category, -1) < num_classes:
            raise EvaluationError(f"{path}: category {category} is none of the {num_classes} classes")
        frequencies[index_of[category]] = frequency
    return tuple(frequencies)
