# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from helpers.exported import NetworkRunner, small_predictor
from helpers.tiny_model import random_image
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from safetensors import safe_open

from cmpf.data import Vocabulary
from cmpf.errors import CMPFError, VocabularyError, WeightsError
from cmpf.export import running
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
