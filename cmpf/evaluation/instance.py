# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Instance segmentation: average precision of masks and boxes, by the rules of COCO and of LVIS."""

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
    binary_masks,
    check_size,
    describe,
    finite_numbers,
    gather_by_image,
    new_image,
    paired,
    required,
    to_array,
    whole_numbers,
)
from cmpf.formats.coco_json import LVIS_FREQUENCIES, read_coco
from cmpf.formats.masks import encode_mask, rle_area, rle_box, to_rle
from cmpf.types import InstanceResult, ModelResult, Sample

Masks = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]


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
            class_names: one per class, in the order of the class indices; those without an object do not count.
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
            new_image(image_id := required(sample, "image_id"), self._records, describe(sample))
            self._records[image_id] = record

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
        masks, boxes, scores, classes = checked_instances(sample, instances)
        for category in np.unique(classes).tolist():
            self._check_class(sample, "prediction", category)
        detections = []
        for place in self._judged(sample, scores, classes).tolist():
            x0, y0, x1, y1 = boxes[place].tolist()
            detections.append(
                {
                    "category_id": int(classes[place]),
                    "score": float(scores[place]),
                    "segmentation": encode_mask(masks[place]),
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
    """Masks (N, H, W), boxes (N, 4) (x0, y0, x1, y1), scores (N,) and class indices (N,) of a prediction.

    Raises:
        EvaluationError: they are not equally many, or of another size than the sample, or hold what they cannot.
    """
    where = describe(sample)
    size = (required(sample, "height"), required(sample, "width"))
    masks, boxes = to_array(instances.pred_masks), to_array(instances.pred_boxes)
    scores, classes = to_array(instances.scores), to_array(instances.pred_classes)
    equally_many(where, masks=len(masks), boxes=len(boxes), scores=len(scores), classes=len(classes))
    check_size(where, masks.shape[1:], size)
    return (
        binary_masks(masks, f"{where}: predicted masks"),
        finite_numbers(boxes, f"{where}: predicted boxes"),
        finite_numbers(scores, f"{where}: scores"),
        whole_numbers(classes, f"{where}: predicted classes"),
    )


def equally_many(what: str, **lengths: int) -> None:
    """Makes sure that lists which belong together are equally long.

    Raises:
        EvaluationError: they are not.
    """
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{count} {name}" for name, count in lengths.items())
        raise EvaluationError(f"{what}: {counts}; expected one of each for every detection")


NEGATIVE, NOT_EXHAUSTIVE = "neg_category_ids", "not_exhaustive_category_ids"


class LVISEvaluator(InstanceEvaluator):
    """AP, APr, APc, APf (Gupta et al., LVIS, section 3.3) from `outputs["instances"]`.

    Of each image the 300 best detections count, all classes together; of these only the classes that have an
    object in the image or are known to have none. Ground truth is the sample's `annotations`,
    `neg_category_ids` and `not_exhaustive_category_ids`, all with contiguous class indices.
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
            frequencies: "r" (rare: in at most 10 training images), "c" (common: at most 100) or "f"
                (frequent) for each class.
        Raises:
            EvaluationError: not one frequency per class, or another letter.
        """
        super().__init__(class_names=class_names, seen=seen, iou_types=iou_types)
        self._frequencies = tuple(frequencies)
        strange = sorted({repr(f) for f in self._frequencies if f not in LVIS_FREQUENCIES})
        if strange or len(self._frequencies) != len(self._names):
            raise EvaluationError(
                f"{len(self._frequencies)} frequencies for {len(self._names)} classes"
                f"{', unknown ' + ', '.join(strange) if strange else ''}; give r, c or f for each class"
            )

    def _facts(self, sample: Sample) -> dict[str, Any]:
        facts = {key: [int(c) for c in required(sample, key)] for key in (NEGATIVE, NOT_EXHAUSTIVE)}
        for key, categories in facts.items():
            for category in categories:
                self._check_class(sample, key, category)
        return facts

    def _judged(
        self, sample: Sample, scores: npt.NDArray[np.float64], classes: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        present = {annotation["category_id"] for annotation in required(sample, "annotations")}
        return federated_detections(scores, classes, present | set(required(sample, NEGATIVE)))

    def _metrics(self, precision: Precision) -> Metrics:
        return average_precisions(precision, self._names, self._seen, self._frequencies)


def read_frequencies(
    path: str | Path, *, num_classes: int, class_of_id: Mapping[int, int] | None = None
) -> tuple[str, ...]:
    """`frequency` of each class from an LVIS JSON file.

    It says in how many training images a class is, so it cannot be counted in the validation images.

    Args:
        class_of_id: category id -> class index; None = classes are in the order of the category ids.
    Returns:
        (K,) letters; "f" for a class that the file lacks, which then has no object either.
    Raises:
        EvaluationError: the file cannot be read, a category has no frequency, or no class.
    """
    try:
        categories = read_coco(path, ["categories"])["categories"]
        frequency_of = {int(category["id"]): str(category["frequency"]) for category in categories}
    except (DatasetError, ValueError, KeyError, TypeError) as error:
        raise EvaluationError(
            f"{path}: no LVIS v1 annotations with a `frequency` in each category "
            f"({type(error).__name__}: {error}); use lvis_v1_val.json as published"
        ) from error
    index_of = class_of_id or {identity: index for index, identity in enumerate(sorted(frequency_of))}
    letters = ["f"] * num_classes
    for identity, letter in frequency_of.items():
        if not 0 <= index_of.get(identity, -1) < num_classes:
            raise EvaluationError(f"{path}: category {identity} is none of the {num_classes} classes")
        letters[index_of[identity]] = letter
    return tuple(letters)
