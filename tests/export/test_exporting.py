# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.exported import NetworkRunner, needs_onnx, small_predictor
from helpers.tiny_model import random_image
from PIL import Image
from torch import Tensor
from torch.export import ExportedProgram

import cmpf.export
from cmpf.errors import CMPFError, ConfigError
from cmpf.export import ExportReport, export_model, exporting, left_out
from cmpf.export.exporting import Agreement, check_runner, model_outputs
from cmpf.export.network import INPUTS, ExportNetwork, check_size, example_inputs
from cmpf.export.network import trace as trace_network
from cmpf.export.programs import ENDINGS, Runner, open_program
from cmpf.predictor import Predictor

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
                programs.append(trace_network(network, size=size, dynamic=dynamic))
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
    path = tmp_path_factory.mktemp("export") / f"new/tiny{ENDINGS[request.param]}"
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


def test_attention_reads_by_plain_gathers_and_no_operator_samples_a_grid(report: ExportReport) -> None:
    (path,) = report.files
    if path.suffix == ENDINGS["torch-export"]:
        # Parts that run without autocast have graphs of their own.
        graphs = torch.export.load(path).graph_module.modules()
        names = [str(node.target) for part in graphs for node in part.graph.nodes]
        assert not any("grid_sampl" in name for name in names)
        gathers = names.count("aten.index_select.default")
    else:
        import onnx

        kinds = [node.op_type for node in onnx.load(path).graph.node]
        assert "GridSample" not in kinds
        gathers = kinds.count("Gather")
    # Four corners on each of the pixel decoder's three levels and on SAM's one, a layer each.
    assert gathers >= 4 * 3 + 4


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


def test_a_file_that_disagrees_does_not_replace_the_old_one_and_the_model_keeps_its_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = small_predictor()
    predictor.model.train()

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
    assert predictor.model.training


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
    started = small_predictor("proposal_queries")
    with pytest.raises(CMPFError, match=r"PROPOSAL_QUERIES and export do not go together: .*SAM's masks"):
        export_model(started, tmp_path / "a.pt2", format="torch-export", pretrained="")
    oblong = small_predictor("cmpf_tiny", "MODEL.CMPF.SAM.KEEP_ASPECT", True)
    with pytest.raises(
        CMPFError, match=r"SAM\.KEEP_ASPECT and export do not go together: .* set it to False"
    ):
        export_model(oblong, tmp_path / "a.pt2", format="torch-export", pretrained="")
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


class Changed(NetworkRunner):
    """The network with an issue."""

    def __init__(self, predictor: Predictor, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__(predictor)
        self.change = change

    def __call__(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        mask_cls, mask_pred = super().__call__(inputs)
        return mask_cls, self.change(mask_pred)


def check(runner: NetworkRunner, predictor: Predictor, *, dynamic: bool = True) -> list[Agreement]:
    return check_runner(runner, runner.network, predictor.model, size=(64, 96), dynamic=dynamic)


def test_two_sizes_and_two_vocabularies_are_compared() -> None:
    predictor = small_predictor()
    first, second = check(NetworkRunner(predictor), predictor)
    assert (first.size, first.classes, first.synonyms) == ((64, 96), 5, 7)
    assert (second.size, second.classes, second.synonyms) == ((96, 64), 20, 20)
    assert first.holds
    assert second.holds
    assert first.spread["mask_pred"] > 0
    assert "64 x 96, 5 classes, 7 synonyms: mask_cls: largest difference" in str(first)


def test_a_program_of_one_size_is_compared_at_that_size() -> None:
    predictor = small_predictor()
    assert [a.size for a in check(NetworkRunner(predictor), predictor, dynamic=False)] == [(64, 96)] * 2


def _noise(x: Tensor) -> Tensor:
    return x + 1e-2 * (x.max() - x.min()) * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))


def _nan(x: Tensor) -> Tensor:
    return torch.where(x == x.max(), torch.nan, x)


@pytest.mark.parametrize("change", [_noise, _nan])
def test_a_program_that_differs_or_gives_no_numbers_is_refused(change: Callable[[Tensor], Tensor]) -> None:
    predictor = small_predictor()
    with pytest.raises(CMPFError, match="does not compute what the model computes, so no file was written"):
        check(Changed(predictor, change), predictor)


def test_one_value_that_rounding_threw_to_the_other_side_is_accepted_and_shown() -> None:
    # 10 queries x 16 x 24 cells = 3,840 values; one that is off by a tenth of the spread moves the mean by 2.6e-5.
    agreement = Agreement(
        size=(64, 96), classes=5, synonyms=7,
        largest={"mask_cls": 0.0, "mask_pred": 0.1},
        mean={"mask_cls": 0.0, "mask_pred": 0.1 / 3840},
        spread={"mask_cls": 1.0, "mask_pred": 1.0},
    )  # fmt: skip
    assert agreement.holds
    assert "mask_pred: largest difference 1.0e-01" in str(agreement)


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


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("cmpf_tiny", ()),
        ("fcclip_tiny", ()),
        ("cmpf_tiny", ("MODEL.CMPF.SAM_BRANCH.FLAT_LEVELS", 3)),
        ("cmpf_tiny", ("MODEL.CMPF.ENSEMBLE_ON_VALID_MASK", True)),
        ("cmpf_tiny", ("MODEL.MASK_FORMER.TEST.CLIP_OBJECTNESS", 0.5)),
    ],
)
def test_the_network_computes_what_the_model_computes_with_padding_too(
    name: str, overrides: tuple[object, ...]
) -> None:
    model = small_predictor(name, *overrides).model
    network = ExportNetwork(model)
    inputs = example_inputs(network, (96, 128), synonyms=7, classes=5, padding=(13, 30))
    with torch.no_grad():
        mask_cls, mask_pred = network(**inputs)
    wanted_cls, wanted_pred = model_outputs(model, inputs)
    assert mask_cls.shape == (10, 6)
    assert mask_pred.shape == (10, 24, 32)
    torch.testing.assert_close(mask_cls, wanted_cls)
    torch.testing.assert_close(mask_pred, wanted_pred)


def test_what_stands_in_the_padding_has_no_effect() -> None:
    network = ExportNetwork(small_predictor().model)
    inputs = example_inputs(network, (96, 128), synonyms=7, classes=5, padding=(13, 30))
    other = {**inputs, "image": inputs["image"].clone()}
    other["image"][:, :, 96 - 13 :] = 255
    other["image"][..., 128 - 30 :] = 7
    with torch.no_grad():
        torch.testing.assert_close(network(**inputs), network(**other), rtol=0, atol=0)


def test_the_text_tower_and_sams_mask_decoder_are_no_part_of_it() -> None:
    names = [name for name, _ in ExportNetwork(small_predictor().model).named_parameters()]
    assert {name.split(".")[0] for name in names} == {
        "clip_image", "sam_image", "pixel_decoder", "sam_branch", "decoder", "void_embedding",
    }  # fmt: skip
    assert not any("transformer.resblocks" in name or "prompt_encoder" in name for name in names)


@pytest.mark.parametrize(("size", "fix"), [((100, 128), "128 is near 100"), ((64, 32), "64 is near 32")])
def test_a_size_that_does_not_fit_is_named_with_one_that_does(size: tuple[int, int], fix: str) -> None:
    with pytest.raises(ConfigError, match=f"image size {size[0]} x {size[1]}: .*multiples of 32.*{fix}"):
        check_size(size)


def test_sizes_of_64_to_8192_pixels_fit() -> None:
    check_size((64, 8192))


def test_example_inputs_have_the_form_that_the_network_documents() -> None:
    network = ExportNetwork(small_predictor().model)
    inputs = example_inputs(network, (64, 96), synonyms=9, classes=4, padding=(3, 5))
    assert tuple(inputs) == INPUTS
    assert inputs["image"].shape == (1, 3, 64, 96)
    assert 0 <= inputs["image"].min() < inputs["image"].max() <= 255
    assert inputs["size"].tolist() == [61, 91]
    torch.testing.assert_close(inputs["text"].norm(dim=1), torch.ones(9))
    assert inputs["class_of_row"].unique_consecutive().tolist() == [0, 1, 2, 3]
    assert inputs["seen"].shape == (4,)
