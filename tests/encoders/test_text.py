# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Vocabularies in CLIP's space."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from helpers.encoders import CONVNEXT, small_clip
from torch import Tensor
from torch.nn import functional as F

from cmpf.encoders.clip import CLIP
from cmpf.encoders.text import TEMPLATES, embed_names, embed_vocabulary
from cmpf.encoders.text_cache import TextCache
from cmpf.errors import VocabularyError

CLASSES = [["person", "child"], ["car"], ["sky", "clouds", "heaven"]]


@pytest.fixture(scope="module")
def clip() -> CLIP:
    return small_clip()


class Counter:
    """Counts the prompts that CLIP encodes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, clip: CLIP) -> None:
        self.prompts: list[str] = []
        original = clip.encode_text

        def counted(prompts: Sequence[str]) -> Tensor:
            self.prompts += prompts
            return original(prompts)

        monkeypatch.setattr(clip, "encode_text", counted)


def test_there_are_the_14_templates_of_the_paper() -> None:
    assert len(set(TEMPLATES)) == 14
    assert all(template.count("{}") == 1 for template in TEMPLATES)
    assert TEMPLATES[0].format("cat") == "a photo of a cat."
    assert TEMPLATES[-1].format("cat") == "There is a large cat in the scene."


def test_an_embedding_is_the_normalized_mean_of_normalized_prompts(clip: CLIP) -> None:
    rows = []
    for name in ("cat", "traffic light"):
        single = [F.normalize(clip.encode_text([template.format(name)])[0], dim=0) for template in TEMPLATES]
        mean = torch.stack(single).sum(dim=0) / 14
        rows.append(mean / mean.norm())
    torch.testing.assert_close(embed_names(clip, ["cat", "traffic light"]), torch.stack(rows))


def test_a_vocabulary_has_one_unit_row_a_synonym_class_by_class(clip: CLIP) -> None:
    found = embed_vocabulary(clip, CLASSES, cache=None)
    assert found.num_classes == 3
    assert found.class_of_row.tolist() == [0, 0, 1, 2, 2, 2]
    torch.testing.assert_close(found.matrix.norm(dim=1), torch.ones(6))
    torch.testing.assert_close(found.matrix[3], embed_names(clip, ["sky"])[0])


def test_a_name_in_two_classes_is_encoded_once_and_stands_in_both(
    monkeypatch: pytest.MonkeyPatch, clip: CLIP
) -> None:
    counter = Counter(monkeypatch, clip)
    found = embed_vocabulary(clip, [["bank", "shore"], ["bank"]], cache=None)
    assert len(counter.prompts) == 2 * 14
    assert torch.equal(found.matrix[0], found.matrix[2])
    assert found.class_of_row.tolist() == [0, 0, 1]


def test_a_name_with_braces_is_only_a_name(clip: CLIP) -> None:
    assert embed_vocabulary(clip, [["{0} {x}"]], cache=None).matrix.shape == (1, 24)


def test_the_second_start_with_the_same_words_encodes_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, clip: CLIP
) -> None:
    first = embed_vocabulary(clip, CLASSES, cache=TextCache(tmp_path))
    counter = Counter(monkeypatch, clip)
    second = embed_vocabulary(clip, CLASSES, cache=TextCache(tmp_path))
    assert counter.prompts == []
    assert torch.equal(first.matrix, second.matrix)


def test_other_words_other_weights_and_another_name_are_encoded_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, clip: CLIP
) -> None:
    cache = TextCache(tmp_path)
    embed_vocabulary(clip, CLASSES, cache=cache)
    counter = Counter(monkeypatch, clip)
    embed_vocabulary(clip, [*CLASSES, ["dog"]], cache=cache)
    assert len(counter.prompts) == 7 * 14
    other = small_clip(vision={**CONVNEXT, "timm_proj": "linear"})
    embed_vocabulary(other, CLASSES, cache=cache)
    renamed = small_clip()
    renamed.name = "clip/small-quickgelu"
    embed_vocabulary(renamed, CLASSES, cache=cache)
    assert len(list(tmp_path.glob("*.safetensors"))) == 4


def test_the_same_names_in_other_classes_share_the_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, clip: CLIP
) -> None:
    embed_vocabulary(clip, [["a", "b"], ["c"]], cache=TextCache(tmp_path))
    counter = Counter(monkeypatch, clip)
    found = embed_vocabulary(clip, [["a"], ["b", "c"]], cache=TextCache(tmp_path))
    assert counter.prompts == []
    assert found.class_of_row.tolist() == [0, 1, 1]


@pytest.mark.parametrize("cached", [False, True])
def test_embeddings_made_during_a_prediction_can_be_trained_with(
    cached: bool, tmp_path: Path, clip: CLIP
) -> None:
    cache = TextCache(tmp_path) if cached else None
    with torch.inference_mode():
        embed_vocabulary(clip, CLASSES, cache=cache)
        found = embed_vocabulary(clip, CLASSES, cache=cache)
    weights = torch.ones(1, 24, requires_grad=True)
    (weights @ found.matrix.T).sum().backward()
    assert weights.grad is not None
    assert not found.matrix.is_inference()
    assert not found.class_of_row.is_inference()


def test_a_vocabulary_without_classes_or_names_is_an_error(clip: CLIP) -> None:
    with pytest.raises(VocabularyError, match="the vocabulary is empty: give at least one class"):
        embed_vocabulary(clip, [], cache=None)
    with pytest.raises(VocabularyError, match="class 1 has no name"):
        embed_vocabulary(clip, [["cat"], []], cache=None)
