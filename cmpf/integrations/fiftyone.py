# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""CMPF as a FiftyOne model.

model = fiftyone_model(cmpf.load("cmpf_tiny"), ["red circle", "sky"])
dataset.apply_model(model, label_field="cmpf")
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmpf.errors import CMPFError
from cmpf.inference import Instances
from cmpf.predictor import Predictor


def fiftyone_model(predictor: Predictor, classes: Sequence[str], *, min_score: float = 0.3) -> Any:
    """A `fiftyone.Model` that adds the fields "instances" (Detections) and "semantic" (Segmentation) to images.

    Args:
        predictor: the predictor to use.
        classes: the vocabulary, see `Predictor.predict`; `model.set_class_names` changes it.
        min_score: minimum score of instances.
    Raises:
        CMPFError: FiftyOne is not installed.
    """
    try:
        import fiftyone
    except ImportError as error:
        raise CMPFError("a model of FiftyOne needs FiftyOne: pip install fiftyone") from error
    return type("CMPFModel", (_Labels, fiftyone.Model), {})(fiftyone, predictor, classes, min_score)


class _Labels:
    """FiftyOne's model interface; `host` is the module fiftyone."""

    media_type, ragged_batches, transforms, preprocess = "image", True, None, False

    def __init__(self, host: Any, predictor: Predictor, classes: Sequence[str], min_score: float) -> None:
        self.host, self.predictor, self.min_score = host, predictor, min_score
        self.set_class_names(classes)

    def set_class_names(self, classes: Sequence[str]) -> None:
        """Changes the vocabulary and `mask_targets` (for dataset.default_mask_targets; 0 is FiftyOne's background)."""
        self.vocabulary = self.predictor.vocabulary(classes)
        self.mask_targets = {index + 1: name for index, name in enumerate(self.vocabulary.names)}

    def predict(self, arg: NDArray[np.uint8]) -> dict[str, Any]:
        """Labels of one (H, W, 3) uint8 RGB image; "semantic" holds class index + 1."""
        prediction = self.predictor.predict(
            arg, self.vocabulary, task=("semantic", "instance"), min_score=self.min_score
        )
        return {
            "instances": self.host.Detections(detections=self._detections(prediction.instances)),
            "semantic": self.host.Segmentation(mask=prediction.semantic + 1),
        }

    def _detections(self, instances: Instances) -> list[Any]:
        """FiftyOne's detections, with boxes (x, y, w, h) relative to the image and masks cropped to their boxes."""
        height, width = instances.masks.shape[1:]
        detections = []
        for mask, box, score, label in zip(
            instances.masks, instances.boxes, instances.scores, instances.labels, strict=True
        ):
            x0, y0, x1, y1 = box.astype(int).tolist()
            relative = [x0 / width, y0 / height, (x1 - x0) / width, (y1 - y0) / height]
            name, cropped = self.vocabulary.names[int(label)], mask[y0:y1, x0:x1]
            detections.append(
                self.host.Detection(label=name, bounding_box=relative, mask=cropped, confidence=float(score))
            )
        return detections
