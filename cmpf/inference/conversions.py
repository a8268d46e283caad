# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Segment and Instances, and conversions of them to other libraries' formats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cmpf.errors import CMPFError
from cmpf.formats.masks import encode_mask
from cmpf.inference.mask_sequence import MaskSequence
from cmpf.types import InstanceResult, MaskOrigin, SegmentInfo

_ROWS = 64  # rows counted per call of np.bincount


@dataclass(frozen=True)
class Segment:
    """One segment of the panoptic image.

    Attributes:
        id: value in `panoptic`, from 1.
        category: class name.
        category_id: class index in the vocabulary, from 0.
        isthing: whether the class is a thing (countable), not stuff.
        score: 0..1.
        area: number of pixels.
        bbox: (x, y, width, height) in pixels, COCO's order.
        source: origin of the mask, "decoder" or "sam".
    """

    id: int
    category: str
    category_id: int
    isthing: bool
    score: float
    area: int
    bbox: tuple[int, int, int, int]
    source: MaskOrigin = "decoder"


@dataclass(frozen=True)
class Instances:
    """Instances of an image, best first.

    Attributes:
        masks: (N, H, W) bool array; for a very large image a MaskSequence, which behaves like the array and computes
            each mask when it is read.
        boxes: (N, 4) float32, (x0, y0, x1, y1) in pixels.
        scores: (N,) float32, 0..1.
        labels: (N,) int64 class indices.
        sources: (N,) origin of each mask, "decoder" or "sam".
    """

    masks: NDArray[np.bool_] | MaskSequence
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    sources: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.scores)

    def above(self, threshold: float) -> Instances:
        """The instances with at least this score."""
        return self.chosen(self.scores >= threshold)

    def chosen(self, index: NDArray[Any]) -> Instances:
        """The instances at an array of indices, or where a bool array (N,) is True."""
        return Instances(
            self.masks[index],
            self.boxes[index],
            self.scores[index],
            self.labels[index],
            self.sources[index],
        )


def segments_of(
    ids: NDArray[np.int32], infos: Sequence[SegmentInfo], names: Sequence[str]
) -> tuple[Segment, ...]:
    """Adds class names, areas and boxes to the model's segments of an id map (H, W)."""
    count = 1 + max((info["id"] for info in infos), default=0)
    row_counts, column_counts = _count_pixels(ids, count)
    areas = row_counts.sum(axis=0)
    return tuple(
        Segment(
            id=info["id"],
            category=names[info["category_id"]],
            category_id=info["category_id"],
            isthing=info["isthing"],
            score=float(info["score"]),
            area=int(areas[info["id"]]),
            bbox=_bbox(row_counts[:, info["id"]], column_counts[:, info["id"]]),
            source=info.get("source", "decoder"),
        )
        for info in infos
    )


def _count_pixels(ids: NDArray[np.int32], count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Number of pixels of each id, 0..count - 1, in each row (H, count) and in each column (W, count)."""
    height, width = ids.shape
    row_counts, column_counts = np.zeros((height, count), np.int64), np.zeros((width, count), np.int64)
    for top in range(0, height, _ROWS):  # a few rows at a time, because np.bincount needs 64-bit numbers
        tile = ids[top : top + _ROWS].astype(np.int64)
        bins = tile + count * np.arange(len(tile))[:, None]
        counts = np.bincount(bins.ravel(), minlength=len(tile) * count)
        row_counts[top : top + _ROWS] = counts.reshape(-1, count)
        bins = tile + count * np.arange(width)
        column_counts += np.bincount(bins.ravel(), minlength=width * count).reshape(-1, count)
    return row_counts, column_counts


def _bbox(row_counts: NDArray[np.int64], column_counts: NDArray[np.int64]) -> tuple[int, int, int, int]:
    """(x, y, width, height) of a segment."""
    rows, columns = np.flatnonzero(row_counts), np.flatnonzero(column_counts)
    x, y = int(columns[0]), int(rows[0])
    return x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1


def instances_of(result: InstanceResult) -> Instances:
    """Converts the model's instances to NumPy."""

    def array(values: Tensor, dtype: Any) -> NDArray[Any]:
        return values.cpu().numpy().astype(dtype, copy=False)

    of_sam = np.zeros(len(result), np.bool_) if result.of_sam is None else array(result.of_sam, np.bool_)
    return Instances(
        masks=array(result.pred_masks, np.bool_) if result.lazy_masks is None else result.lazy_masks,
        boxes=array(result.pred_boxes, np.float32),
        scores=array(result.scores, np.float32),
        labels=array(result.pred_classes, np.int64),
        sources=np.where(of_sam, "sam", "decoder"),
    )


def coco_results(instances: Instances, image_id: str | int) -> list[dict[str, Any]]:
    """COCO results: image_id, category_id (class index), segmentation (RLE), bbox [x, y, w, h], score, source."""
    results = []
    fields = (instances.masks, instances.boxes, instances.scores, instances.labels, instances.sources)
    for mask, box, score, label, source in zip(*fields, strict=True):
        x0, y0, x1, y1 = (float(v) for v in box)
        results.append(
            {
                "image_id": image_id,
                "category_id": int(label),
                "segmentation": encode_mask(mask),
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "score": float(score),
                "source": str(source),
            }
        )
    return results


def coco_panoptic(segments: Sequence[Segment], image_id: str | int, file_name: str) -> dict[str, Any]:
    """JSON of a COCO panoptic PNG: one annotation and its categories."""
    infos = [
        {
            "id": s.id,
            "category_id": s.category_id,
            "area": s.area,
            "bbox": list(s.bbox),
            "iscrowd": 0,
            "source": s.source,
        }
        for s in segments
    ]
    categories = {
        s.category_id: {"id": s.category_id, "name": s.category, "isthing": int(s.isthing)} for s in segments
    }
    return {
        "annotations": [{"image_id": image_id, "file_name": file_name, "segments_info": infos}],
        "categories": [categories[index] for index in sorted(categories)],
    }


def hugging_face_panoptic(ids: NDArray[np.int32], segments: Sequence[Segment]) -> dict[str, Any]:
    """The format of one image in transformers' `post_process_panoptic_segmentation`.

    Returns:
        "segmentation": (H, W) int32 tensor of segment ids, 0 = void; "segments_info": id, label_id, was_fused (True for
        stuff) and score of each segment.
    """
    infos = [
        {"id": s.id, "label_id": s.category_id, "was_fused": not s.isthing, "score": s.score}
        for s in segments
    ]
    return {"segmentation": torch.from_numpy(ids.copy()), "segments_info": infos}


def supervision_detections(instances: Instances, names: Sequence[str]) -> Any:
    """`supervision.Detections` with class names in data["class_name"].

    Raises:
        CMPFError: the package supervision is not installed.
    """
    try:
        import supervision
    except ImportError as error:
        raise CMPFError("to_supervision needs the package supervision: pip install supervision") from error
    return supervision.Detections(
        xyxy=instances.boxes,
        mask=np.asarray(instances.masks),
        confidence=instances.scores,
        class_id=instances.labels,
        data={"class_name": np.array([names[int(label)] for label in instances.labels], dtype=str)},
    )
