# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What a prediction is made of, and the forms in which other libraries read it."""

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

_ROWS = 64  # of an image, that are counted at once


@dataclass(frozen=True)
class Segment:
    """One segment of the panoptic image.

    Attributes:
        id: value in `panoptic`, from 1.
        category: name of the class.
        category_id: index of the class in the vocabulary, from 0.
        isthing: whether objects of the class are counted one by one.
        score: 0..1.
        area: in pixels.
        bbox: (x, y, width, height) in pixels, COCO's order.
        source: whose mask it is, "decoder" or "sam".
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
        masks: (N, H, W) bool. Of a very large image a MaskSequence, which makes each mask when it is read and else
            reads as the array does.
        boxes: (N, 4) float32, (x0, y0, x1, y1) in pixels.
        scores: (N,) float32, 0..1.
        labels: (N,) int64 class indices.
        sources: (N,) whose mask each is, "decoder" or "sam".
    """

    masks: NDArray[np.bool_] | MaskSequence
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    sources: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.scores)

    def above(self, threshold: float) -> Instances:
        """Those with at least this score."""
        keep = self.scores >= threshold
        return self.chosen(keep)

    def chosen(self, places: NDArray[Any]) -> Instances:
        """Some of them: indices, or a flag for each."""
        return Instances(
            self.masks[places],
            self.boxes[places],
            self.scores[places],
            self.labels[places],
            self.sources[places],
        )


def segments_of(
    ids: NDArray[np.int32], infos: Sequence[SegmentInfo], names: Sequence[str]
) -> tuple[Segment, ...]:
    """Segments with names and boxes, for ids (H, W) and what the model says of them."""
    count = 1 + max((info["id"] for info in infos), default=0)
    of_rows, of_columns = _pixels(ids, count)
    areas = of_rows.sum(axis=0)
    return tuple(
        Segment(
            id=info["id"],
            category=names[info["category_id"]],
            category_id=info["category_id"],
            isthing=info["isthing"],
            score=float(info["score"]),
            area=int(areas[info["id"]]),
            bbox=_box(of_rows[:, info["id"]], of_columns[:, info["id"]]),
            source=info.get("source", "decoder"),
        )
        for info in infos
    )


def _pixels(ids: NDArray[np.int32], count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many pixels of each id, 0 .. count - 1, are in each row (H, count), and in each column (W, count)."""
    height, width = ids.shape
    of_rows, of_columns = np.zeros((height, count), np.int64), np.zeros((width, count), np.int64)
    for top in range(0, height, _ROWS):  # some at a time, because they are counted as 64-bit numbers
        tile = ids[top : top + _ROWS].astype(np.int64)
        numbers = tile + count * np.arange(len(tile))[:, None]
        of_rows[top : top + _ROWS] = np.bincount(numbers.ravel(), minlength=len(tile) * count).reshape(
            -1, count
        )
        numbers = tile + count * np.arange(width)
        of_columns += np.bincount(numbers.ravel(), minlength=width * count).reshape(-1, count)
    return of_rows, of_columns


def _box(of_rows: NDArray[np.int64], of_columns: NDArray[np.int64]) -> tuple[int, int, int, int]:
    """COCO's order."""
    rows, columns = np.flatnonzero(of_rows), np.flatnonzero(of_columns)
    x, y = int(columns[0]), int(rows[0])
    return x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1


def instances_of(result: InstanceResult) -> Instances:
    """The model's instances in NumPy."""

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


def coco_results(found: Instances, image_id: str | int) -> list[dict[str, Any]]:
    """COCO results: image_id, category_id (class index), segmentation (RLE), bbox [x, y, w, h], score, source."""
    results = []
    values = (found.masks, found.boxes, found.scores, found.labels, found.sources)
    for mask, box, score, label, source in zip(*values, strict=True):
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
    """The JSON beside a COCO panoptic PNG: one annotation, and the categories that occur in it."""
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
    """What the `post_process_panoptic_segmentation` of transformers returns for one image.

    Returns:
        "segmentation": (H, W) int32 tensor of segment ids, 0 = void; "segments_info": id, label_id, was_fused
        (stuff: all its regions are one segment) and score of each.
    """
    infos = [
        {"id": s.id, "label_id": s.category_id, "was_fused": not s.isthing, "score": s.score}
        for s in segments
    ]
    return {"segmentation": torch.from_numpy(ids.copy()), "segments_info": infos}


def supervision_detections(found: Instances, names: Sequence[str]) -> Any:
    """`supervision.Detections`, class names under data["class_name"].

    Raises:
        CMPFError: the package supervision is not installed.
    """
    try:
        import supervision
    except ImportError as error:
        raise CMPFError("to_supervision needs the package supervision: pip install supervision") from error
    return supervision.Detections(
        xyxy=found.boxes,
        mask=np.asarray(found.masks),
        confidence=found.scores,
        class_id=found.labels,
        data={"class_name": np.array([names[int(label)] for label in found.labels], dtype=str)},
    )
