# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The adapter with stand-ins for FiftyOne's classes; their fields are those of its version 1.22."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from helpers.tiny_model import tiny_model

from cmpf.errors import CMPFError
from cmpf.integrations.fiftyone import fiftyone_model
from cmpf.predictor import Predictor


@pytest.fixture
def _host(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = {
        name: type(name, (SimpleNamespace,), {}) for name in ("Detection", "Detections", "Segmentation")
    }
    fiftyone = ModuleType("fiftyone")
    vars(fiftyone).update(labels, Model=type("Model", (), {}))
    monkeypatch.setitem(sys.modules, "fiftyone", fiftyone)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(model=tiny_model("no_ensemble"), short_side=64, max_side=128, mask_ensemble=None)


@pytest.mark.usefixtures("_host")
def test_a_sample_gets_detections_and_a_segmentation(predictor: Predictor) -> None:
    image = np.random.default_rng(0).integers(0, 255, (40, 56, 3), dtype=np.uint8)
    model = fiftyone_model(predictor, ["red circle", "unicorn"], min_score=0.0)
    assert (model.media_type, model.ragged_batches, model.transforms, model.preprocess) == (
        "image", True, None, False,
    )  # fmt: skip
    sample = {"filepath": "a.png"} | model.predict(image)  # as dataset.apply_model does with each sample
    expected = predictor.predict(image, ["red circle", "unicorn"], min_score=0)
    assert np.array_equal(sample["semantic"].mask, expected.semantic + 1)
    assert model.mask_targets == {1: "red circle", 2: "unicorn"}
    detections = sample["instances"].detections
    assert len(detections) == len(expected.instances) > 0
    for detection, mask in zip(detections, expected.instances.masks, strict=True):
        x, y, width, height = detection.bounding_box  # shares of the image
        left, top = round(x * 56), round(y * 40)
        right, bottom = left + round(width * 56), top + round(height * 40)
        assert np.array_equal(detection.mask, mask[top:bottom, left:right])
        assert detection.mask.sum() == mask.sum()
        assert detection.label in ("red circle", "unicorn")
        assert 0 <= detection.confidence <= 1


@pytest.mark.usefixtures("_host")
def test_other_words_may_be_set(predictor: Predictor) -> None:
    model = fiftyone_model(predictor, ["cat"])
    model.set_class_names(["dog", "bird, parrot"])
    assert model.mask_targets == {1: "dog", 2: "bird"}


def test_without_fiftyone_the_command_that_installs_it_is_named(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fiftyone", None)
    with pytest.raises(CMPFError, match="pip install fiftyone"):
        fiftyone_model(predictor, ["cat"])
