# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers.exported import small_predictor
from safetensors import safe_open

from cmpf.data import Vocabulary
from cmpf.errors import VocabularyError, WeightsError
from cmpf.export.words import TextTower, WordFile, save_words

CLASSES = Vocabulary(classes=[["cat"], ["dog", "puppy"], ["big cat", "cat"]])


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
