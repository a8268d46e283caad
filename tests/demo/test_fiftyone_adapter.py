# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The adapter with stand-ins for FiftyOne's classes; their fields are those of its version 1.22."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from helpers.tiny_model import tiny_model

from cmpf.predictor import Predictor


@pytest.fixture
def adapter(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    labels = {
        name: type(name, (SimpleNamespace,), {}) for name in ("Detection", "Detections", "Segmentation")
    }
    fiftyone = ModuleType("fiftyone")
    vars(fiftyone).update(labels, Model=type("Model", (), {}))
    monkeypatch.setitem(sys.modules, "fiftyone", fiftyone)
    monkeypatch.delitem(sys.modules, "demo.fiftyone_adapter", raising=False)
    module = importlib.import_module("demo.fiftyone_adapter")
    monkeypatch.delitem(sys.modules, "demo.fiftyone_adapter")
    return module


def test_a_sample_gets_detections_and_a_segmentation(adapter: ModuleType) -> None:
    image = np.random.default_rng(0).integers(0, 255, (40, 56, 3), dtype=np.uint8)
    predictor = Predictor(model=tiny_model("no_ensemble"), short_side=64, max_side=128, mask_ensemble=None)
    model = adapter.CMPFModel(predictor, ["red circle", "sky"], min_score=0.0)
    assert (model.media_type, model.ragged_batches, model.transforms, model.preprocess) == (
        "image", True, None, False,
    )  # fmt: skip
    sample = {"filepath": "a.png"} | model.predict(image)  # as dataset.apply_model does with each sample
    expected = predictor.predict(image, ["red circle", "sky"])
    assert np.array_equal(sample["semantic"].mask, expected.semantic + 1)
    assert model.mask_targets == {1: "red circle", 2: "sky"}
    detections = sample["instances"].detections
    assert len(detections) == len(expected.instances) > 0
    for detection, mask in zip(detections, expected.instances.masks, strict=True):
        x, y, width, height = detection.bounding_box  # shares of the image
        left, top = round(x * 56), round(y * 40)
        right, bottom = left + round(width * 56), top + round(height * 40)
        assert np.array_equal(detection.mask, mask[top:bottom, left:right])
        assert detection.mask.sum() == mask.sum()
        assert detection.label == "red circle"  # the only thing: sky is stuff
        assert 0 <= detection.confidence <= 1


def test_other_words_may_be_set(adapter: ModuleType) -> None:
    predictor = Predictor(model=tiny_model("no_ensemble"), short_side=64, max_side=128, mask_ensemble=None)
    model = adapter.CMPFModel(predictor, ["cat"])
    model.set_class_names(["dog", "bird, parrot"])
    assert model.mask_targets == {1: "dog", 2: "bird"}
