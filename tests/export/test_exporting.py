# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from helpers.exported import NetworkRunner, needs_onnx, small_predictor
from torch import Tensor
from torch.export import ExportedProgram

from cmpf.errors import CMPFError
from cmpf.export import ExportReport, export_model, exporting, left_out, tracing
from cmpf.export.checking import model_outputs
from cmpf.export.formats import Runner, open_program
from cmpf.export.network import ExportNetwork
from cmpf.export.tracing import example_inputs
from cmpf.predictor import Predictor

ENDING = {"torch-export": "pt2", "onnx": "onnx"}
BOTH = ["torch-export", pytest.param("onnx", marks=needs_onnx)]


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return small_predictor()


@pytest.fixture(scope="module")
def traced_once() -> Iterator[None]:
    """The same program goes into both files, which saves a third of the time."""
    with pytest.MonkeyPatch.context() as patch:
        programs: list[ExportedProgram] = []

        def trace(network: ExportNetwork, *, size: tuple[int, int], dynamic: bool) -> ExportedProgram:
            if not programs:
                programs.append(tracing.trace(network, size=size, dynamic=dynamic))
            return programs[0]

        patch.setattr(exporting, "trace", trace)
        yield


@pytest.fixture(scope="module", params=BOTH)
def report(
    request: pytest.FixtureRequest,
    traced_once: None,
    predictor: Predictor,
    tmp_path_factory: pytest.TempPathFactory,
) -> ExportReport:
    path = tmp_path_factory.mktemp("export") / f"new/tiny.{ENDING[request.param]}"
    return export_model(predictor, path, format=request.param, pretrained="")


@pytest.fixture(scope="module")
def runner(report: ExportReport) -> Runner:
    return open_program(report.files[0], device="cpu")


def test_the_report_shows_file_size_and_agreement(report: ExportReport) -> None:
    (path,) = report.files
    assert list(path.parent.iterdir()) == [path]
    assert f"{path} ({path.stat().st_size / 1e6:.1f} MB)" in str(report)
    assert [agreement.size for agreement in report.agreements] == [(192, 256), (224, 160)]
    assert str(report).count("largest difference") == 4


# K = T and T > K, one class, the smallest image, SAM's own input size, a wide one, padding.
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
    runner: Runner,
    predictor: Predictor,
    size: tuple[int, int],
    synonyms: int,
    classes: int,
    padding: tuple[int, int],
) -> None:
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
        "one image size",
    ):
        assert part in text
    assert "one image size" not in "\n".join(left_out(predictor, dynamic=True))
