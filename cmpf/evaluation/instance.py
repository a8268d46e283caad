# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Instance segmentation: COCO average precision of masks and boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from cmpf.errors import EvaluationError
from cmpf.evaluation.average_precision import IoUType, Precision, average_precisions, coco_precision
from cmpf.evaluation.gathering import ImageId, gather_by_image
from cmpf.evaluation.ground_truth import check_size, describe, paired, required, to_array
from cmpf.evaluation.protocol import Metrics, Results
from cmpf.formats.masks import rle_area, rle_box, to_rle
from cmpf.types import InstanceResult, ModelResult, Sample


@dataclass(frozen=True)
class _ImageRecord:
    """Ground truth and detections of one image, masks as compressed RLE.

    facts: further fields of the image's entry.
    """

    height: int
    width: int
    annotations: list[dict[str, Any]]
    detections: list[dict[str, Any]]
    facts: dict[str, Any] = field(default_factory=dict)


class InstanceEvaluator:
    """AP by COCO's rules from `outputs["instances"]`, for masks ("segm") and boxes ("bbox").

    Ground truth is the sample's `annotations`: COCO instance annotations with contiguous class indices. Areas
    of detections, for APs, APm and APl, are those of the masks in "segm" and of the boxes in "bbox".
    """

    def __init__(
        self,
        *,
        class_names: Sequence[str],
        seen: Sequence[bool] | None = None,
        iou_types: Sequence[IoUType] = ("segm", "bbox"),
    ) -> None:
        """
        Args:
            class_names: one a class, in the order of the class indices; those without an object do not count.
            seen: whether each was a training class; None = not asked.
            iou_types: what to compare; one task of the result each.
        """
        self._names = tuple(class_names)
        self._seen = seen
        self._iou_types = tuple(iou_types)
        self._records: dict[ImageId, _ImageRecord] = {}

    def reset(self) -> None:
        """Forgets all images."""
        self._records = {}

    def process(self, inputs: Sequence[Sample], outputs: Sequence[ModelResult]) -> None:
        """Adds a batch; see Evaluator."""
        for sample, instances in paired(inputs, outputs, "instances"):
            height, width = required(sample, "height"), required(sample, "width")
            annotations = [self._annotation(sample, a) for a in required(sample, "annotations")]
            detections = self._detections(sample, instances)
            record = _ImageRecord(height, width, annotations, detections, self._facts(sample))
            self._records[required(sample, "image_id")] = record

    def _facts(self, sample: Sample) -> dict[str, Any]:
        """Fields of a sample that the entry of its image needs besides its size."""
        return {}

    def _judged(
        self, sample: Sample, scores: npt.NDArray[np.float64], classes: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        """Places of the detections to keep."""
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
        from pycocotools import mask as coco_mask

        masks = to_array(instances.pred_masks).astype(np.uint8)
        boxes = to_array(instances.pred_boxes).astype(np.float64)
        scores = to_array(instances.scores).astype(np.float64)
        classes = to_array(instances.pred_classes).astype(np.int64)
        check_size(describe(sample), masks.shape[1:], (sample["height"], sample["width"]))
        for category in np.unique(classes).tolist():
            self._check_class(sample, "prediction", category)
        detections = []
        for place in self._judged(sample, scores, classes).tolist():
            x0, y0, x1, y1 = boxes[place].tolist()
            detections.append(
                {
                    "category_id": int(classes[place]),
                    "score": float(scores[place]),
                    "segmentation": coco_mask.encode(np.asfortranarray(masks[place])),
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
        """{"segm": {AP, AP50, AP75, APs, APm, APl, S_AP, U_AP, ..., AP-name}, "bbox": {...}} in percent."""
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        detections: list[dict[str, Any]] = []
        # COCO wants numbers as image ids, ours may be words.
        for number, record in enumerate(gather_by_image(self._records).values(), start=1):
            images.append({"id": number, "height": record.height, "width": record.width, **record.facts})
            annotations += [{**a, "image_id": number} for a in record.annotations]
            detections += [{**d, "image_id": number} for d in record.detections]
        return {
            iou_type: self._metrics(self._precision(images, annotations, detections, iou_type))
            for iou_type in self._iou_types
        }

    def _precision(
        self,
        images: list[dict[str, Any]],
        annotations: list[dict[str, Any]],
        detections: list[dict[str, Any]],
        iou_type: IoUType,
    ) -> Precision:
        return coco_precision(
            images, annotations, detections, num_classes=len(self._names), iou_type=iou_type
        )

    def _metrics(self, precision: Precision) -> Metrics:
        return average_precisions(precision, self._names, self._seen)
