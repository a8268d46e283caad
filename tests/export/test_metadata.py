# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import json

import pytest
from helpers.exported import small_predictor

from cmpf.data import Vocabulary
from cmpf.errors import WeightsError
from cmpf.export.metadata import check_version, describe, settings_of


def test_metadata_survive_json_and_give_settings_and_training_classes_back() -> None:
    predictor = small_predictor()
    metadata = json.loads(json.dumps(describe(predictor, size=(64, 96), pretrained="tag")))
    check_version(metadata, "x.onnx")
    assert metadata["image"]["size"] == [64, 96]
    assert (metadata["image"]["short_side"], metadata["image"]["max_side"]) == (96, 160)
    assert metadata["text"]["clip"] == "cmpf_tiny"
    assert metadata["text"]["pretrained"] == "tag"
    assert len(metadata["text"]["templates"]) == 14
    assert metadata["encoders"] == predictor.model.encoder_hashes()
    settings = settings_of(metadata)
    assert (settings.alpha, settings.beta) == (predictor.model.settings.alpha, predictor.model.settings.beta)
    assert settings.mask_ensemble is None
    found = Vocabulary(**metadata["train_vocabulary"])
    assert found == Vocabulary(
        classes=predictor.model.train_vocabulary.classes, things=predictor.model.train_vocabulary.things
    )


def test_another_form_is_refused() -> None:
    with pytest.raises(
        WeightsError, match=r"x\.onnx: exported in form 99, this CMPF reads 1; export the model again"
    ):
        check_version({"version": 99}, "x.onnx")
