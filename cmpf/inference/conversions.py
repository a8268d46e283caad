# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Results in the forms that other libraries read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from cmpf.errors import CMPFError
from cmpf.inference.prediction_parts import Instances, Segment


def coco_results(found: Instances, image_id: str | int) -> list[dict[str, Any]]:
    """COCO results: image_id, category_id (class index), segmentation (RLE), bbox [x, y, width, height], score."""
    results = []
    for mask, box, score, label in zip(found.masks, found.boxes, found.scores, found.labels, strict=True):
        rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        x0, y0, x1, y1 = (float(v) for v in box)
        results.append(
            {
                "image_id": image_id,
                "category_id": int(label),
                "segmentation": {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")},
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "score": float(score),
            }
        )
    return results


def coco_panoptic(segments: Sequence[Segment], image_id: str | int, file_name: str) -> dict[str, Any]:
    """The JSON beside a COCO panoptic PNG: one annotation, and the categories that occur in it."""
    infos = [
        {"id": s.id, "category_id": s.category_id, "area": s.area, "bbox": list(s.bbox), "iscrowd": 0}
        for s in segments
    ]
    categories = {
        s.category_id: {"id": s.category_id, "name": s.category, "isthing": int(s.isthing)} for s in segments
    }
    return {
        "annotations": [{"image_id": image_id, "file_name": file_name, "segments_info": infos}],
        "categories": [categories[index] for index in sorted(categories)],
    }


def coco_panoptic_colors(ids: NDArray[np.int32]) -> NDArray[np.uint8]:
    """(H, W) ids -> (H, W, 3) RGB with id = R + 256 G + 65536 B."""
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)


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
        mask=found.masks,
        confidence=found.scores,
        class_id=found.labels,
        data={"class_name": np.array([names[int(label)] for label in found.labels], dtype=str)},
    )
