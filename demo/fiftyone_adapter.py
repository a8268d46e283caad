# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""CMPF as a model of FiftyOne: dataset.apply_model(CMPFModel(cmpf.load("cmpf_tiny"), WORDS), label_field="cmpf")."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import fiftyone as fo
import numpy as np

from cmpf.inference import Instances
from cmpf.predictor import Predictor


class CMPFModel(fo.Model):
    """Labels of each image: fields "instances" (Detections) and "semantic" (Segmentation, class index + 1)."""

    media_type, ragged_batches, transforms, preprocess = "image", True, None, False

    def __init__(self, predictor: Predictor, classes: Sequence[str], *, min_score: float = 0.3) -> None:
        self.predictor, self.min_score = predictor, min_score
        self.set_class_names(classes)

    def set_class_names(self, classes: Sequence[str]) -> None:
        """Other words from here on. `mask_targets` are for dataset.default_mask_targets; 0 is FiftyOne's void."""
        self.vocabulary = self.predictor.vocabulary(classes)
        self.mask_targets = {index + 1: name for index, name in enumerate(self.vocabulary.names)}

    def predict(self, arg: np.ndarray) -> dict[str, Any]:
        """Labels of one (H, W, 3) uint8 RGB image."""
        found = self.predictor.predict(arg, self.vocabulary).above(self.min_score)
        labels = {"instances": fo.Detections(detections=self._detections(found.instances))}
        return labels | {"semantic": fo.Segmentation(mask=found.semantic + 1)}

    def _detections(self, found: Instances) -> list[Any]:
        """FiftyOne counts boxes in shares of the image and cuts masks to them."""
        height, width = found.masks.shape[1:]
        detections = []
        for mask, box, score, label in zip(found.masks, found.boxes, found.scores, found.labels, strict=True):
            x0, y0, x1, y1 = box.astype(int).tolist()
            share = [x0 / width, y0 / height, (x1 - x0) / width, (y1 - y0) / height]
            name, cut = self.vocabulary.names[int(label)], mask[y0:y1, x0:x1]
            detections.append(fo.Detection(label=name, bounding_box=share, mask=cut, confidence=float(score)))
        return detections
