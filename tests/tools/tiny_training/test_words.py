# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import torch
from torch.nn import functional as F

from cmpf.encoders.tiny import build_tiny_clip_model, tiny_tokenizer
from cmpf.shapeworld import CATEGORIES
from tools.tiny_training.words import PromptSampler, material_words, phrases, read, shape_words

RED_CIRCLE = next(category for category in CATEGORIES if category.name == "red circle")
SKY = next(category for category in CATEGORIES if category.name == "sky")


def test_a_things_words_are_taken_apart_and_put_together_in_every_way() -> None:
    assert material_words(RED_CIRCLE) == ["red", "scarlet"]
    assert shape_words(RED_CIRCLE) == ["circle", "disc"]
    assert phrases(RED_CIRCLE) == ["red circle", "red disc", "scarlet circle", "scarlet disc"]


def test_stuff_keeps_its_words() -> None:
    assert phrases(SKY) == ["sky", "cloudy sky", "heaven"]


def test_every_word_of_the_vocabulary_is_taught() -> None:
    assert all(set(category.words) <= set(phrases(category)) for category in CATEGORIES)


def test_no_phrase_means_two_categories() -> None:
    taught = [phrase for category in CATEGORIES for phrase in phrases(category)]
    assert len(taught) == len(set(taught))


def test_one_prompt_is_drawn_for_each_of_54_categories_8_materials_and_6_shapes_and_the_seed_decides() -> (
    None
):
    prompts = PromptSampler(seed=1).draw()
    assert len(prompts) == 54 + 8 + 6
    assert any(phrase in prompts[RED_CIRCLE.id] for phrase in phrases(RED_CIRCLE))
    assert any(word in prompts[54] for word in ("red", "scarlet"))
    assert prompts == PromptSampler(seed=1).draw()
    assert prompts != PromptSampler(seed=2).draw()


def test_reading_equals_open_clips_encode_text_at_full_length() -> None:
    torch.manual_seed(0)
    model, tokenizer = build_tiny_clip_model(), tiny_tokenizer()
    texts = ["sky", "There is a large chessboard triangle in the scene.", "wow!!!"]
    with torch.no_grad():
        expected = F.normalize(model.encode_text(tokenizer(texts)), dim=-1)
        assert torch.allclose(read(model, tokenizer, texts), expected, atol=1e-5)
