# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.exported import NetworkRunner, needs_onnx, small_predictor
from helpers.tiny_model import picture
from PIL import Image
from torch import Tensor

import cmpf.export
from cmpf.errors import CMPFError
from cmpf.export import ExportReport, export_model, exporting, left_out
from cmpf.export.checking import model_outputs
from cmpf.export.formats import open_program
from cmpf.export.network import ExportNetwork
from cmpf.export.tracing import example_inputs
from cmpf.predictor import Predictor

ENDING = {"torch-export": "pt2", "onnx": "onnx"}
BOTH = ["torch-export", pytest.param("onnx", marks=needs_onnx)]


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return small_predictor()


@pytest.fixture(scope="module", params=BOTH)
def report(
    request: pytest.FixtureRequest, predictor: Predictor, tmp_path_factory: pytest.TempPathFactory
) -> ExportReport:
    path = tmp_path_factory.mktemp("export") / f"new/tiny.{ENDING[request.param]}"
    return export_model(predictor, path, format=request.param, pretrained="")


def test_the_report_shows_file_size_and_agreement(report: ExportReport) -> None:
    (path,) = report.files
    assert list(path.parent.iterdir()) == [path]
    assert f"{path} ({path.stat().st_size / 1e6:.1f} MB)" in str(report)
    assert [agreement.size for agreement in report.agreements] == [(192, 256), (224, 160)]
    assert str(report).count("largest difference") == 4


# K = T and T > K, one class, the smallest picture, SAM's own input size, a wide one, padding.
@pytest.mark.parametrize(
    ("size", "synonyms", "classes", "padding"),
    [
        ((64, 64), 1, 1, (0, 0)),
        ((256, 256), 9, 9, (0, 0)),
        ((64, 320), 40, 3, (31, 1)),
        ((128, 96), 2, 1, (0, 9)),
    ],
)
def test_other_sizes_and_vocabularies_than_those_of_the_example_agree(
    report: ExportReport,
    predictor: Predictor,
    size: tuple[int, int],
    synonyms: int,
    classes: int,
    padding: tuple[int, int],
) -> None:
    runner = open_program(report.files[0], device="cpu")
    inputs = example_inputs(
        ExportNetwork(predictor.model), size, synonyms=synonyms, classes=classes, padding=padding, seed=7
    )
    for found, wanted in zip(runner(inputs), model_outputs(predictor.model, inputs), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)


class Wrong(NetworkRunner):
    def __call__(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        mask_cls, mask_pred = super().__call__(inputs)
        return mask_cls, -mask_pred


def test_a_file_that_disagrees_does_not_replace_the_old_one(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(program: object, path: Path, **_: object) -> None:
        path.write_text("new")

    monkeypatch.setattr(exporting, "trace", lambda *_, **__: None)
    monkeypatch.setattr(exporting, "write_program", write)
    monkeypatch.setattr(exporting, "open_program", lambda *_, **__: Wrong(predictor))
    path = tmp_path / "a.pt2"
    path.write_text("old")
    with pytest.raises(CMPFError, match="no file was written"):
        export_model(predictor, path, format="torch-export", pretrained="")
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt2"]
    assert path.read_text() == "old"


def test_a_wrong_request_is_refused_before_any_work(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trace(*_: object, **__: object) -> None:
        raise AssertionError("the work began")

    monkeypatch.setattr(exporting, "trace", trace)
    with pytest.raises(CMPFError, match=r"give image_size \(--image-size H W\)"):
        export_model(predictor, tmp_path / "a.pt2", format="torch-export", pretrained="", dynamic=False)
    with pytest.raises(CMPFError, match="image size 100 x 64: height and width must be multiples of 32"):
        export_model(
            predictor, tmp_path / "a.pt2", format="torch-export", pretrained="", image_size=(100, 64)
        )
    wide = small_predictor("fcclip_tiny", "MODEL.MASK_FORMER.SIZE_DIVISIBILITY", 64)
    with pytest.raises(CMPFError, match=r"SIZE_DIVISIBILITY 64: .*set it to 32"):
        export_model(wide, tmp_path / "a.pt2", format="torch-export", pretrained="")
    assert not list(tmp_path.iterdir())


def test_what_is_left_out_names_the_ensemble_the_text_tower_and_what_is_fixed(predictor: Predictor) -> None:
    text = "\n".join(left_out(predictor, dynamic=False))
    for part in (
        "OpenSeg Ensemble",
        "text tower",
        "post-processing",
        "alpha 0.4, beta 0.8",
        "one picture size",
    ):
        assert part in text
    assert "one picture size" not in "\n".join(left_out(predictor, dynamic=True))


@pytest.mark.slow
@pytest.mark.parametrize("format", BOTH)
def test_a_program_of_one_size_agrees_at_that_size_only(
    predictor: Predictor, tmp_path: Path, format: str
) -> None:
    path = tmp_path / f"a.{ENDING[format]}"
    report = export_model(predictor, path, format=format, pretrained="", image_size=(64, 96), dynamic=False)
    assert [agreement.size for agreement in report.agreements] == [(64, 96)] * 2
    runner = open_program(path, device="cpu")
    assert runner.metadata["image"]["size"] == [64, 96]
    inputs = example_inputs(ExportNetwork(predictor.model), (96, 96), synonyms=2, classes=2)
    with pytest.raises(Exception, match=r"96|shape|dimension"):
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
        small_predictor(name, *overrides), tmp_path / f"a.{ENDING[format]}", format=format, pretrained=""
    )
    assert all(agreement.holds for agreement in report.agreements)


@pytest.mark.slow
@needs_onnx
def test_the_example_of_the_package_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(picture(120, 160).permute(1, 2, 0).numpy()).save("street.jpg")
    example = re.search(r"\n((?:    .*\n)+)", cmpf.export.__doc__ or "")
    assert example is not None
    names: dict[str, object] = {}
    exec("\n".join(line[4:] for line in example.group(1).splitlines()), names)
    found = names["out"]
    wanted = cmpf.load("cmpf_tiny", device="cpu").predict(
        "street.jpg", ["car", "person, pedestrian", "road", "sky"]
    )
    assert np.mean(found.semantic == wanted.semantic) > 0.999  # type: ignore[attr-defined]
