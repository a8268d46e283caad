# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Exported programs and how they are run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from helpers.exported import NetworkRunner, needs_onnx, small_predictor
from helpers.tiny_model import random_image
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from safetensors import safe_open

from cmpf.data import Vocabulary
from cmpf.errors import CMPFError, VocabularyError, WeightsError
from cmpf.export import programs, running
from cmpf.export.programs import (
    check_format,
    check_packages,
    check_version,
    describe,
    open_program,
    settings_of,
)
from cmpf.export.running import ExportedModel, TextTower, WordFile, load_exported, save_words
from cmpf.factory import load_predictor
from cmpf.model import CMPF
from cmpf.predictor import Predictor

WORDS = ["red circle", "dog, puppy", "sky"]
CLASSES = Vocabulary(classes=[["cat"], ["dog", "puppy"], ["big cat", "cat"]])


def array(height: int, width: int) -> NDArray[np.uint8]:
    return random_image(height, width).permute(1, 2, 0).numpy()


def exported(predictor: Predictor, *, size: tuple[int, int] | None = None) -> tuple[Predictor, NetworkRunner]:
    """The network behind ExportedModel, as load_exported would put it there."""
    runner = NetworkRunner(predictor, size=size)
    model = ExportedModel(runner=runner, embed=TextTower(predictor.model.encoders.clip, cache=None))
    sides = {"short_side": predictor.short_side, "max_side": predictor.max_side}
    return Predictor(model=cast(CMPF, model), **sides, mask_ensemble=None, known=[]), runner


@pytest.mark.parametrize("shape", [(70, 100), (150, 40)])
def test_an_exported_network_predicts_what_the_model_predicts(shape: tuple[int, int]) -> None:
    own = load_predictor("cmpf_tiny", device="cpu")  # trained, so that it finds something
    copy, _ = exported(own)
    drawn = Image.new("RGB", (shape[1], shape[0]), (120, 200, 240))
    ImageDraw.Draw(drawn).ellipse((5, 10, 35, 40), fill=(220, 20, 20))
    words = ["red circle", "dog, puppy", "sky, light blue background"]
    wanted, found = (p.predict(drawn, words, stuff=["sky"], ensemble=False) for p in (own, copy))
    assert found.panoptic.shape == shape
    np.testing.assert_array_equal(found.panoptic, wanted.panoptic)
    np.testing.assert_array_equal(found.semantic, wanted.semantic)
    np.testing.assert_array_equal(found.instances.masks, wanted.instances.masks)
    np.testing.assert_allclose(found.instances.scores, wanted.instances.scores, rtol=1e-5)
    assert "red circle" in wanted.summary()


def test_results_are_those_without_the_mask_ensemble_which_cannot_be_asked_for() -> None:
    own = load_predictor("cmpf_tiny", device="cpu")
    assert own.model.settings.mask_ensemble is not None  # on in its configuration
    copy, _ = exported(own)
    plain = own.predict(array(70, 100), WORDS, task="semantic", ensemble=False)
    np.testing.assert_array_equal(
        copy.predict(array(70, 100), WORDS, task="semantic").semantic, plain.semantic
    )
    with pytest.raises(CMPFError, match="ensemble=True"):
        copy.predict(array(70, 100), WORDS, ensemble=True)


def test_images_of_a_list_each_get_their_own_padding() -> None:
    copy, runner = exported(small_predictor())
    found = copy.predict([array(70, 100), array(96, 96)], WORDS, batch_size=2)
    assert [p.semantic.shape for p in found] == [(70, 100), (96, 96)]
    assert runner.sizes == [(96, 160), (96, 96)]  # 70 x 100 -> 96 x 137


def test_a_narrow_image_is_padded_to_the_smallest_size() -> None:
    copy, runner = exported(small_predictor())
    assert copy.predict(array(400, 20), WORDS).semantic.shape == (400, 20)
    assert runner.sizes == [(160, 64)]  # 400 x 20 -> 160 x 8


def test_images_are_made_smaller_for_a_program_of_one_size() -> None:
    copy, runner = exported(small_predictor(), size=(96, 128))
    for shape in ((300, 200), (50, 160), (96, 128)):
        assert copy.predict(array(*shape), WORDS).semantic.shape == shape
    assert runner.sizes == [(96, 128)] * 3


def test_words_of_another_clip_are_refused() -> None:
    own, other = small_predictor(), small_predictor()
    other.model.encoders.clip._weights_hash = "0" * 64
    with pytest.raises(
        WeightsError, match=r"a CLIP with the hash 000000000000\.\.\., the exported model has clip"
    ):
        ExportedModel(runner=NetworkRunner(own), embed=TextTower(other.model.encoders.clip, cache=None))


def test_a_file_of_words_spares_the_text_tower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = small_predictor()
    words = save_words(own.model.encoders.clip, Vocabulary.from_words(WORDS), tmp_path / "w.safetensors")
    runner = NetworkRunner(own)

    def opened(path: Path, *, device: str) -> NetworkRunner:
        return runner

    def no_clip(**_: Any) -> None:
        raise AssertionError("a CLIP was built")

    monkeypatch.setattr(running, "open_program", opened)
    monkeypatch.setattr(running, "build_clip", no_clip)
    loaded = load_exported("x.onnx", words=words)
    assert (loaded.short_side, loaded.max_side) == (96, 160)
    wanted, found = (p.predict(array(70, 100), WORDS, task="semantic") for p in (own, loaded))
    np.testing.assert_array_equal(found.semantic, wanted.semantic)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("words") / "words.safetensors"
    return save_words(small_predictor().model.encoders.clip, CLASSES, target)


def test_a_file_of_words_can_be_read_by_whom_the_umask_allows(path: Path, tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_file_of_words_gives_what_the_text_tower_gives(path: Path) -> None:
    tower = TextTower(small_predictor().model.encoders.clip, cache=None)
    for vocabulary in (CLASSES, Vocabulary(classes=[["puppy", "cat"], ["dog"]])):
        wanted, found = tower(vocabulary), WordFile(path)(vocabulary)
        torch.testing.assert_close(found.matrix, wanted.matrix)
        assert found.class_of_row.tolist() == wanted.class_of_row.tolist()
        assert found.num_classes == wanted.num_classes
    assert WordFile(path).encoder_hash == tower.encoder_hash


def test_each_word_is_stored_once(path: Path) -> None:
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["words"]) == ["cat", "dog", "puppy", "big cat"]
        assert file.get_tensor("text").shape == (4, 128)


def test_a_word_that_is_not_there_is_named(path: Path) -> None:
    with pytest.raises(VocabularyError, match=r"no embedding of 'cow' \(1 of 2 words are not there\)"):
        WordFile(path)(Vocabulary(classes=[["cat"], ["cow"]]))


@pytest.mark.parametrize("content", [None, b"nonsense"])
def test_another_file_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match="not a file of words of cmpf export, or damaged"):
        WordFile(path)


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
