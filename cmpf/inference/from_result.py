# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What the model returns for an image -> its Prediction, in NumPy and with names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cmpf.inference.prediction import Prediction
from cmpf.inference.prediction_parts import Instances, Segment
from cmpf.types import InstanceResult, ModelResult, SegmentInfo


def prediction_of(
    result: ModelResult, *, image: NDArray[np.uint8], source: str, names: tuple[str, ...]
) -> Prediction:
    """The prediction of one image; `sem_seg` must be labels, not scores.

    Args:
        image, source, names: see Prediction.
    """
    panoptic = semantic = instances = None
    if "panoptic_seg" in result:
        ids, infos = result["panoptic_seg"]
        panoptic = _panoptic(ids.cpu().numpy().astype(np.int32), infos, names)
    if "sem_seg" in result:
        semantic = result["sem_seg"].cpu().numpy().astype(np.uint16)
    if "instances" in result:
        instances = _instances(result["instances"])
    return Prediction(
        image=image,
        names=names,
        source=source,
        panoptic_result=panoptic,
        semantic_result=semantic,
        instances_result=instances,
    )


def _panoptic(
    ids: NDArray[np.int32], infos: Sequence[SegmentInfo], names: Sequence[str]
) -> tuple[NDArray[np.int32], tuple[Segment, ...]]:
    segments = []
    for info in infos:
        rows, columns = np.nonzero(ids == info["id"])
        x0, y0 = int(columns.min()), int(rows.min())
        segments.append(
            Segment(
                id=info["id"],
                category=names[info["category_id"]],
                category_id=info["category_id"],
                isthing=info["isthing"],
                score=float(info["score"]),
                area=len(rows),
                bbox=(x0, y0, int(columns.max()) - x0 + 1, int(rows.max()) - y0 + 1),
            )
        )
    return ids, tuple(segments)


def _instances(result: InstanceResult) -> Instances:
    def array(values: Tensor, dtype: Any) -> NDArray[Any]:
        return values.cpu().numpy().astype(dtype)

    return Instances(
        masks=array(result.pred_masks, np.bool_),
        boxes=array(result.pred_boxes, np.float32),
        scores=array(result.scores, np.float32),
        labels=array(result.pred_classes, np.int64),
    )
