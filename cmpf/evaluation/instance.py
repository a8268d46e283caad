# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Instance segmentation: COCO average precision of masks and boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cmpf.errors import EvaluationError
from cmpf.evaluation.average_precision import IoUType, average_precisions, coco_precision
from cmpf.evaluation.gathering import ImageId, gather_by_image
from cmpf.evaluation.ground_truth import check_size, describe, paired, required, to_array
from cmpf.evaluation.protocol import Results
from cmpf.types import InstanceResult, ModelResult, Sample


@dataclass(frozen=True)
class _ImageRecord:
    """Ground truth and detections of one image, masks as compressed RLE."""

    height: int
    width: int
    annotations: list[dict[str, Any]]
    detections: list[dict[str, Any]]


class InstanceEvaluator:
    """AP by COCO's rules from `outputs["instances"]`, for masks ("segm") and boxes ("bbox").

    Ground truth is the sample's `annotations`: COCO instance annotations with contiguous class indices.
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
            record = _ImageRecord(height, width, annotations, detections)
            self._records[required(sample, "image_id")] = record

    def _annotation(self, sample: Sample, annotation: dict[str, Any]) -> dict[str, Any]:
        from pycocotools import mask as coco_mask

        self._check_class(sample, "annotation", annotation["category_id"])
        rle = _to_rle(sample, annotation["segmentation"])
        return {
            "category_id": annotation["category_id"],
            "segmentation": rle,
            "bbox": list(annotation["bbox"]) if "bbox" in annotation else coco_mask.toBbox(rle).tolist(),
            "area": float(annotation.get("area", coco_mask.area(rle))),
            "iscrowd": int(annotation.get("iscrowd", 0)),
        }

    def _detections(self, sample: Sample, instances: InstanceResult) -> list[dict[str, Any]]:
        from pycocotools import mask as coco_mask

        masks = to_array(instances.pred_masks).astype(np.uint8)
        boxes = to_array(instances.pred_boxes).astype(np.float64)
        check_size(describe(sample), masks.shape[1:], (sample["height"], sample["width"]))
        detections = []
        for mask, box, score, category in zip(
            masks, boxes, to_array(instances.scores), to_array(instances.pred_classes), strict=True
        ):
            self._check_class(sample, "prediction", int(category))
            x0, y0, x1, y1 = box.tolist()
            detections.append(
                {
                    "category_id": int(category),
                    "score": float(score),
                    "segmentation": coco_mask.encode(np.asfortranarray(mask)),
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
            images.append({"id": number, "height": record.height, "width": record.width})
            annotations += [{**a, "image_id": number} for a in record.annotations]
            detections += [{**d, "image_id": number} for d in record.detections]
        results: Results = {}
        for iou_type in self._iou_types:
            precision = coco_precision(
                images, annotations, detections, num_classes=len(self._names), iou_type=iou_type
            )
            results[iou_type] = average_precisions(precision, self._names, self._seen)
        return results


def _to_rle(sample: Sample, segmentation: Any) -> dict[str, Any]:
    """Polygons, uncompressed or compressed RLE as one compressed RLE of the sample's size."""
    from pycocotools import mask as coco_mask

    height, width = sample["height"], sample["width"]
    try:
        if isinstance(segmentation, list):
            if not segmentation or min(len(polygon) for polygon in segmentation) < 6:
                raise ValueError("a polygon needs three points")
            rle = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
        elif isinstance(segmentation["counts"], list):
            rle = coco_mask.frPyObjects(segmentation, height, width)
        else:
            rle = {"size": list(segmentation["size"]), "counts": segmentation["counts"]}
            coco_mask.area(rle)  # decodes it, so that a damaged one fails here, where its file is known
    except (TypeError, ValueError, KeyError, IndexError) as error:
        raise EvaluationError(
            f"{describe(sample)}: a ground-truth segmentation is neither polygons nor RLE ({error})"
        ) from error
    if list(rle["size"]) != [height, width]:
        raise EvaluationError(
            f"{describe(sample)}: a ground-truth mask is {tuple(rle['size'])} (H, W) "
            f"in an image of {(height, width)}"
        )
    return dict(rle)
