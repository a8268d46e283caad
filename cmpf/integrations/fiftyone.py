# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""CMPF as a model of FiftyOne.

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
    """A `fiftyone.Model` that labels images with fields "instances" (Detections) and "semantic" (Segmentation).

    Args:
        classes: the words to look for, as `Predictor.predict` takes them; `model.set_class_names` changes them.
        min_score: instances of a lower score are left out.
    Raises:
        CMPFError: FiftyOne is not installed.
    """
    try:
        import fiftyone
    except ImportError as error:
        raise CMPFError("a model of FiftyOne needs FiftyOne: pip install fiftyone") from error
    return type("CMPFModel", (_Labels, fiftyone.Model), {})(fiftyone, predictor, classes, min_score)


class _Labels:
    """What FiftyOne asks of its models; `host` is the module fiftyone."""

    media_type, ragged_batches, transforms, preprocess = "image", True, None, False

    def __init__(self, host: Any, predictor: Predictor, classes: Sequence[str], min_score: float) -> None:
        self.host, self.predictor, self.min_score = host, predictor, min_score
        self.set_class_names(classes)

    def set_class_names(self, classes: Sequence[str]) -> None:
        """Other words from here on. `mask_targets` are for dataset.default_mask_targets; 0 is FiftyOne's void."""
        self.vocabulary = self.predictor.vocabulary(classes)
        self.mask_targets = {index + 1: name for index, name in enumerate(self.vocabulary.names)}

    def predict(self, arg: NDArray[np.uint8]) -> dict[str, Any]:
        """Labels of one (H, W, 3) uint8 RGB image; "semantic" holds class index + 1."""
        found = self.predictor.predict(
            arg, self.vocabulary, task=("semantic", "instance"), min_score=self.min_score
        )
        return {
            "instances": self.host.Detections(detections=self._detections(found.instances)),
            "semantic": self.host.Segmentation(mask=found.semantic + 1),
        }

    def _detections(self, found: Instances) -> list[Any]:
        """FiftyOne counts boxes in shares of the image and cuts masks to them."""
        height, width = found.masks.shape[1:]
        detections = []
        for mask, box, score, label in zip(found.masks, found.boxes, found.scores, found.labels, strict=True):
            x0, y0, x1, y1 = box.astype(int).tolist()
            share = [x0 / width, y0 / height, (x1 - x0) / width, (y1 - y0) / height]
            name, cut = self.vocabulary.names[int(label)], mask[y0:y1, x0:x1]
            detections.append(
                self.host.Detection(label=name, bounding_box=share, mask=cut, confidence=float(score))
            )
        return detections
