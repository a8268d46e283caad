# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers.exported import needs_onnx, small_predictor

from cmpf.data import Vocabulary
from cmpf.errors import CMPFError, WeightsError
from cmpf.export import programs
from cmpf.export.programs import (
    check_format,
    check_packages,
    check_version,
    describe,
    open_program,
    settings_of,
)


@pytest.mark.parametrize(
    ("name", "path", "message"),
    [
        ("tflite", "a.pt2", "export format 'tflite' is unknown; choose one of torch-export, onnx"),
        ("torch-export", "a.onnx", r"a.onnx: a file of format torch-export ends in \.pt2"),
        ("onnx", "a.pt2", r"a.pt2: a file of format onnx ends in \.onnx"),
    ],
)
def test_a_format_or_a_name_that_does_not_fit_is_refused(name: str, path: str, message: str) -> None:
    with pytest.raises(CMPFError, match=message):
        check_format(name, Path(path))


def test_a_folder_in_the_place_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pt2").mkdir()
    with pytest.raises(CMPFError, match=r"a\.pt2 is a folder"):
        check_format("torch-export", tmp_path / "a.pt2")


def test_missing_packages_are_named_with_the_command_that_installs_them() -> None:
    with pytest.raises(
        CMPFError, match=r"ONNX needs the packages no_such_package: pip install 'cmpf\[export\]'"
    ):
        check_packages(("json", "no_such_package"))


@pytest.mark.parametrize("name", ["a.pt2", pytest.param("a.onnx", marks=needs_onnx), "a.zip"])
def test_a_file_that_is_missing_or_something_else_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(WeightsError, match="no such file; cmpf export makes one"):
        open_program(tmp_path / name, device="cpu")
    (tmp_path / name).write_bytes(b"nonsense" * 100)
    with pytest.raises(WeightsError, match=r"or damaged|ends in \.pt2 or \.onnx"):
        open_program(tmp_path / name, device="cpu")


class _Twice(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


def test_a_program_of_somebody_else_is_refused(tmp_path: Path) -> None:
    torch.export.save(torch.export.export(_Twice(), (torch.ones(2),)), tmp_path / "a.pt2")
    with pytest.raises(WeightsError, match=r"a\.pt2: holds no cmpf\.json, so it is not of cmpf export"):
        open_program(tmp_path / "a.pt2", device="cpu")


class _SmallConstant(torch.nn.Module):
    """Inputs and outputs have the names of the network's; nothing else is alike."""

    def forward(
        self,
        image: torch.Tensor,
        size: torch.Tensor,
        text: torch.Tensor,
        class_of_row: torch.Tensor,
        seen: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.log(image + 1e-8), text / (
            text.sum() + 1e-8
        ) + size.sum() + class_of_row.sum() + seen.sum()


@needs_onnx
def test_onnx_keeps_the_constant_that_keeps_logarithms_and_means_finite(tmp_path: Path) -> None:
    zero = (
        torch.zeros(2),
        torch.zeros(1, dtype=torch.int64),
        torch.zeros(2),
        torch.zeros(1, dtype=torch.int64),
        torch.zeros(1),
    )
    inputs = dict(zip(programs.INPUTS, zero, strict=True))
    program = torch.export.export(_SmallConstant(), (), kwargs=inputs)
    programs.write_program(program, tmp_path / "a.onnx", format="onnx", metadata={"version": 1})
    runner = open_program(tmp_path / "a.onnx", device="cpu")
    logarithm, mean = runner(inputs)
    assert runner.metadata == {"version": 1}
    torch.testing.assert_close(logarithm, torch.full((2,), -18.420681))  # ln(1e-8) = -8 ln 10
    assert mean.tolist() == [0, 0]


@needs_onnx
def test_a_large_onnx_model_keeps_its_weights_in_a_second_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Linear(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.arange(4096.0).reshape(64, 64))

        def forward(
            self,
            image: torch.Tensor,
            size: torch.Tensor,
            text: torch.Tensor,
            class_of_row: torch.Tensor,
            seen: torch.Tensor,
        ) -> tuple[torch.Tensor, torch.Tensor]:
            return image @ self.weight, size + text + class_of_row + seen

    inputs = dict(zip(programs.INPUTS, (torch.ones(64), *[torch.ones(2)] * 4), strict=True))
    program = torch.export.export(Linear(), (), kwargs=inputs)
    monkeypatch.setattr(programs, "SINGLE_FILE_BYTES", 4096 * 4 - 1)
    programs.write_program(program, tmp_path / "a.onnx", format="onnx", metadata={})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.onnx", "a.onnx.data"]
    found, _ = open_program(tmp_path / "a.onnx", device="cpu")(inputs)
    # Column j of the weight holds 64 i + j for i = 0..63: its sum is 64 * 2016 + 64 j.
    assert found.tolist() == [64 * 2016 + 64 * j for j in range(64)]


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
