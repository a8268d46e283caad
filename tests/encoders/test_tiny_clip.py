# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

from cmpf.encoders.tiny import (
    CLIP_NAME,
    CLIP_WEIGHTS,
    build_tiny_clip_model,
    load_tiny_clip,
    register_tiny_clip,
    tiny_tokenizer,
)
from cmpf.errors import WeightsError
from cmpf.weights.assets import ASSETS


@pytest.fixture(scope="module")
def model() -> Any:
    return load_tiny_clip()


def test_it_is_open_clips_own_class_with_the_parts_that_the_system_reads(model: Any) -> None:
    assert type(model) is open_clip.CLIP
    trunk = model.visual.trunk
    assert all(hasattr(trunk, part) for part in ("stem", "stages", "norm_pre", "head"))
    assert not model.training


def test_the_four_stages_have_strides_4_8_16_32(model: Any) -> None:
    x, shapes = model.visual.trunk.stem(torch.zeros(1, 3, 96, 64)), []
    for stage in model.visual.trunk.stages:
        x = stage(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [(32, 24, 16), (64, 12, 8), (128, 6, 4), (192, 3, 2)]


def test_image_and_text_meet_in_128_dimensions(model: Any) -> None:
    with torch.no_grad():
        assert model.encode_image(torch.zeros(2, 3, 256, 256)).shape == (2, 128)
        assert model.encode_text(tiny_tokenizer()(["a photo of a red circle."])).shape == (1, 128)


def test_registering_twice_adds_one_entry() -> None:
    register_tiny_clip()
    register_tiny_clip()
    assert open_clip.list_models().count(CLIP_NAME) == 1


def test_any_word_of_any_language_becomes_tokens_that_the_model_has() -> None:
    tokenizer = tiny_tokenizer()
    texts = ["red circle", "Straßenbahn", "красный круг", "猫", "قطة", "🐈‍⬛", "", "word " * 200]
    tokens = tokenizer(texts)
    assert tokens.shape == (8, 77)
    assert int(tokens.max()) == tokenizer.eot_token_id == build_tiny_clip_model().vocab_size - 1
    # Every text ends, the one of 200 words too; and each says something, but for the empty one: start, end.
    assert ((tokens == tokenizer.eot_token_id).sum(dim=1) == 1).all()
    assert (tokens.argmax(dim=1) > 1).tolist() == [True] * 6 + [False, True]


def test_words_survive_the_shorter_list_of_merges() -> None:
    tokenizer = tiny_tokenizer()
    assert (
        tokenizer.decode(tokenizer.encode("striped star, naïve café")).strip() == "striped star , naïve café"
    )


def test_the_model_knows_red_from_blue_without_any_image(model: Any) -> None:
    with torch.no_grad():
        red, scarlet, sky = model.encode_text(
            tiny_tokenizer()(["red circle", "scarlet circle", "sky"]), normalize=True
        )
    assert float(red @ scarlet) > float(red @ sky)


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    for name in ("hashes.json", CLIP_WEIGHTS):
        shutil.copy(ASSETS / name, tmp_path / name)
    (tmp_path / CLIP_WEIGHTS).write_bytes(b"cut short")
    with pytest.raises(WeightsError, match="damaged"):
        load_tiny_clip(folder=tmp_path)
