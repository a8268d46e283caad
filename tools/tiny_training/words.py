# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What tiny CLIP reads in training: names, synonyms and parts of names, in prompt templates."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

from cmpf.encoders.clip import encode_tokens
from cmpf.encoders.text import TEMPLATES
from cmpf.shapeworld import CATEGORIES, Category
from cmpf.shapeworld.categories import MATERIALS, SHAPES

_ANY_THING = ("thing", "object", "shape")


def material_words(category: Category) -> list[str]:
    """Words for the material of a thing: "red", "scarlet"."""
    words = [
        word.removesuffix(category.shape).strip() for word in category.words if word.endswith(category.shape)
    ]
    return list(dict.fromkeys(words))


def shape_words(category: Category) -> list[str]:
    """Words for the shape of a thing: "circle", "disc"."""
    words = [
        word.removeprefix(category.material).strip()
        for word in category.words
        if word.startswith(category.material)
    ]
    return list(dict.fromkeys(words))


def phrases(category: Category) -> list[str]:
    """All words for a category; for things every material word with every shape word ("scarlet disc")."""
    if not category.isthing:
        return list(category.words)
    return [f"{material} {shape}" for material in material_words(category) for shape in shape_words(category)]


def _first_with(attribute: str, value: str) -> Category:
    return next(category for category in CATEGORIES if getattr(category, attribute) == value)


class PromptSampler:
    """Draws one prompt for each category, material and shape."""

    def __init__(self, *, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._categories = [phrases(category) for category in CATEGORIES]
        self._materials = [
            [
                f"{word} {noun}"
                for word in material_words(_first_with("material", name))
                for noun in _ANY_THING
            ]
            for name in MATERIALS
        ]
        self._shapes = [shape_words(_first_with("shape", name)) for name in SHAPES]

    def _draw(self, groups: list[list[str]]) -> list[str]:
        prompts = []
        for words in groups:
            word = words[int(self._rng.integers(len(words)))]
            prompts.append(TEMPLATES[int(self._rng.integers(len(TEMPLATES)))].format(word))
        return prompts

    def draw(self) -> list[str]:
        """54 + 8 + 6 prompts, in the order of CATEGORIES, MATERIALS and SHAPES."""
        return self._draw(self._categories) + self._draw(self._materials) + self._draw(self._shapes)


def read(model: nn.Module, tokenizer: Any, texts: list[str]) -> Tensor:
    """Embeddings of texts, L2-normalized: (N, E), with gradient."""
    tokens = tokenizer(texts)
    # Cut after the longest text's end token, which has the highest number.
    length = int(tokens.argmax(dim=1).max()) + 1
    return F.normalize(encode_tokens(model, tokens[:, :length]), dim=-1)
