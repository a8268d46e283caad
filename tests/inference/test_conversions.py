# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cmpf.errors import CMPFError
from cmpf.inference import Prediction


def test_coco_results_hold_box_score_and_class(prediction: Prediction) -> None:
    (found,) = prediction.to_coco()
    assert found["image_id"] == "garden"
    assert found["category_id"] == 0
    assert found["bbox"] == [0, 0, 3, 4]  # x, y, width, height of columns 0-2 and rows 0-3
    assert found["score"] == pytest.approx(0.9)
    assert found["segmentation"]["size"] == [6, 8]


def test_the_hugging_face_form_names_every_segment(prediction: Prediction) -> None:
    form = prediction.to_hf()
    assert form["segments_info"] == [
        {"id": 1, "label_id": 0, "was_fused": False, "score": 0.9},
        {"id": 2, "label_id": 1, "was_fused": True, "score": 0.8},
    ]
    assert form["segmentation"].dtype == torch.int32
    assert np.array_equal(form["segmentation"].numpy(), prediction.panoptic)


def test_supervision_is_asked_for_by_name_when_it_is_not_installed(
    prediction: Prediction, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "supervision", None)
    with pytest.raises(CMPFError, match="pip install supervision"):
        prediction.to_supervision()


def test_supervision_gets_every_field(prediction: Prediction, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", SimpleNamespace(Detections=SimpleNamespace))
    detections = prediction.to_supervision()
    assert np.array_equal(detections.xyxy, [[0, 0, 3, 4]])
    assert detections.mask.shape == (1, 6, 8)
    assert detections.confidence == pytest.approx([0.9])
    assert detections.class_id.tolist() == [0]
    assert detections.data["class_name"].tolist() == ["cat"]


def test_nothing_found_is_no_trouble_for_any_form(
    prediction: Prediction, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "supervision", SimpleNamespace(Detections=SimpleNamespace))
    void = replace(prediction, panoptic_result=(np.zeros((6, 8), np.int32), ())).above(1)
    assert void.to_coco() == []
    assert void.to_hf()["segments_info"] == []
    assert void.to_supervision().data["class_name"].shape == (0,)
