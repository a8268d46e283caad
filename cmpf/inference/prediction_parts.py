# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What a prediction is made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Segment:
    """One segment of the panoptic image.

    id: value in `panoptic`; bbox: [x, y, width, height] in pixels (COCO's order); score: 0..1; area: pixels.
    """

    id: int
    category: str
    category_id: int
    isthing: bool
    score: float
    area: int
    bbox: tuple[int, int, int, int]


@dataclass(frozen=True)
class Instances:
    """Instances, best first: masks (N, H, W) bool, boxes (N, 4) xyxy in pixels, scores (N,), labels (N,) classes."""

    masks: NDArray[np.bool_]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.scores)

    def above(self, threshold: float) -> Instances:
        """Those with at least this score."""
        keep = self.scores >= threshold
        return Instances(self.masks[keep], self.boxes[keep], self.scores[keep], self.labels[keep])
