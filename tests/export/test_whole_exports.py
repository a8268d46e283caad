# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Whole exports of other kinds of models, and the example of the package."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.exported import needs_onnx, small_predictor
from helpers.tiny_model import random_image
from PIL import Image

import cmpf.export
from cmpf.export import export_model
from cmpf.export.formats import ENDINGS, open_program
from cmpf.export.network import ExportNetwork
from cmpf.export.tracing import example_inputs

BOTH = ["torch-export", pytest.param("onnx", marks=needs_onnx)]


@pytest.mark.slow
@pytest.mark.parametrize("format", BOTH)
def test_a_program_of_one_size_agrees_at_that_size_only(tmp_path: Path, format: str) -> None:
    predictor = small_predictor()
    path = tmp_path / f"a{ENDINGS[format]}"
    report = export_model(predictor, path, format=format, pretrained="", image_size=(64, 96), dynamic=False)
    assert [agreement.size for agreement in report.agreements] == [(64, 96)] * 2
    runner = open_program(path, device="cpu")
    assert runner.metadata["image"]["size"] == [64, 96]
    inputs = example_inputs(ExportNetwork(predictor.model), (96, 96), synonyms=2, classes=2)
    with pytest.raises(Exception, match=r"Guard failed: image.size\(\)\[2\] == 64|Got: 96 Expected: 64"):
        runner(inputs)


@pytest.mark.slow
@pytest.mark.parametrize("format", BOTH)
@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("fcclip_tiny", ()),
        ("cmpf_tiny", ("MODEL.CMPF.SAM_BRANCH.FLAT_LEVELS", 3)),
        ("cmpf_tiny", ("MODEL.CMPF.CLIP.NAME", "RN50", "MODEL.CMPF.ENSEMBLE_ON_VALID_MASK", True)),
    ],
)
def test_every_kind_of_model_can_be_exported(
    tmp_path: Path, format: str, name: str, overrides: tuple[object, ...]
) -> None:
    report = export_model(
        small_predictor(name, *overrides), tmp_path / f"a{ENDINGS[format]}", format=format, pretrained=""
    )
    assert all(agreement.holds for agreement in report.agreements)


@pytest.mark.slow
@needs_onnx
def test_the_example_of_the_package_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(random_image(120, 160).permute(1, 2, 0).numpy()).save("street.jpg")
    example = re.search(r"\n((?:    .*\n)+)", cmpf.export.__doc__ or "")
    assert example is not None
    names: dict[str, Any] = {}
    exec("\n".join(line[4:] for line in example.group(1).splitlines()), names)
    found = names["out"]
    own, words = cmpf.load("cmpf_tiny", device="cpu"), ["car", "person, pedestrian", "road", "sky"]
    # The configuration of cmpf_tiny has the mask ensemble on, which an exported file lacks.
    wanted = own.predict("street.jpg", words, ensemble=False)
    assert np.mean(found.semantic == wanted.semantic) > 0.999
    assert np.mean(found.panoptic == wanted.panoptic) > 0.999
