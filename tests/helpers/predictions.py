# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""A prediction drawn by hand."""

from __future__ import annotations

import numpy as np

from cmpf.inference import Instances, Prediction, Segment


def garden() -> Prediction:
    """A 6 x 8 image: a cat (columns 0-2 of rows 0-3) on grass."""
    ids = np.full((6, 8), 2, np.int32)
    ids[:4, :3] = 1
    cat = ids == 1
    segments = (
        Segment(id=1, category="cat", category_id=0, isthing=True, score=0.9, area=12, bbox=(0, 0, 3, 4)),
        Segment(id=2, category="grass", category_id=1, isthing=False, score=0.8, area=36, bbox=(0, 0, 8, 6)),
    )
    instances = Instances(
        masks=cat[None],
        boxes=np.array([[0, 0, 3, 4]], np.float32),
        scores=np.array([0.9], np.float32),
        labels=np.array([0]),
        sources=np.array(["decoder"]),
    )
    return Prediction(
        image=np.full((6, 8, 3), 128, np.uint8),
        names=("cat", "grass"),
        source="garden.jpg",
        panoptic_result=(ids, segments),
        semantic_result=np.where(cat, 0, 1).astype(np.uint16),
        instances_result=instances,
    )
