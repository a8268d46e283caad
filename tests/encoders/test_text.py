# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Vocabularies in CLIP's space, in memory and on disk."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations
from pathlib import Path

import pytest
import torch
from helpers.encoders import CONVNEXT, small_clip
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from cmpf.encoders.clip import CLIP
from cmpf.encoders.text import (
    BLOCK_BYTES,
    CACHED_VOCABULARIES,
    TEMPLATES,
    EmbeddingCache,
    TextCache,
    embed_names,
    embed_vocabulary,
)
from cmpf.errors import VocabularyError
from cmpf.types import ClassEmbeddings

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


def test_only_new_classes_are_encoded_and_other_weights_or_another_name_make_all_new(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, clip: CLIP
) -> None:
    cache = TextCache(tmp_path)
    first = embed_vocabulary(clip, CLASSES, cache=cache)
    counter = Counter(monkeypatch, clip)
    more = embed_vocabulary(clip, [["dog", "car"], *reversed(CLASSES)], cache=cache)
    assert len(counter.prompts) == 2 * 14  # the class of dog and car is new, though car alone is known
    assert torch.equal(more.matrix[2:5], first.matrix[3:])
    assert more.class_of_row.tolist() == [0, 0, 1, 1, 1, 2, 3, 3]
    assert len(list(tmp_path.glob("*.safetensors"))) == 4
    other = small_clip(vision={**CONVNEXT, "timm_proj": "linear"})
    embed_vocabulary(other, CLASSES, cache=cache)
    renamed = small_clip()
    renamed.name = "clip/small-quickgelu"
    embed_vocabulary(renamed, CLASSES, cache=cache)
    assert len(list(tmp_path.glob("*.safetensors"))) == 4 + 3 + 3


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


EMBEDDINGS = torch.arange(12.0).reshape(3, 4)


@pytest.fixture
def cache(tmp_path: Path) -> TextCache:
    return TextCache(tmp_path / "deep" / "text")


def test_what_was_stored_comes_back(cache: TextCache) -> None:
    assert cache.load("k", shape=(3, 4)) is None
    cache.store({"k": EMBEDDINGS})
    found = cache.load("k", shape=(3, 4))
    assert found is not None
    assert torch.equal(found, EMBEDDINGS)
    assert [path.name for path in cache.folder.iterdir()] == ["k.safetensors"]


def test_others_who_share_the_folder_can_read_its_files(cache: TextCache) -> None:
    cache.store({"k": EMBEDDINGS})
    (cache.folder / "plain").touch()
    assert cache.path("k").stat().st_mode == (cache.folder / "plain").stat().st_mode


def test_the_key_depends_on_encoder_templates_and_names_in_order(cache: TextCache) -> None:
    variants = [
        {"encoder": "a", "templates": ["{}"], "names": ["cat", "dog"]},
        {"encoder": "b", "templates": ["{}"], "names": ["cat", "dog"]},
        {"encoder": "a", "templates": ["a {}"], "names": ["cat", "dog"]},
        {"encoder": "a", "templates": ["{}"], "names": ["dog", "cat"]},
        {"encoder": "a", "templates": ["{}"], "names": ["cat dog"]},
        {"encoder": "a", "templates": ["{}", "cat"], "names": ["dog"]},
    ]
    keys = [cache.key(**variant) for variant in variants]  # type: ignore[arg-type]
    assert len(set(keys)) == len(variants)
    assert all(len(key) == 64 for key in keys)
    assert keys[0] == cache.key(encoder="a", templates=("{}",), names=("cat", "dog"))
    assert cache.key(encoder="a", templates=["{}"], names=["naïve 猫"])


@pytest.mark.parametrize("kept", [0, 5, 60, -1])
def test_a_truncated_file_counts_as_not_there(
    cache: TextCache, kept: int, caplog: pytest.LogCaptureFixture
) -> None:
    cache.store({"k": EMBEDDINGS})
    path = cache.path("k")
    path.write_bytes(path.read_bytes()[:kept])
    with caplog.at_level(logging.WARNING):
        assert cache.load("k", shape=(3, 4)) is None
    assert f"{path} is damaged and will be made again" in caplog.text
    cache.store({"k": EMBEDDINGS})
    assert cache.load("k", shape=(3, 4)) is not None


def test_a_flipped_bit_counts_as_damage(cache: TextCache, caplog: pytest.LogCaptureFixture) -> None:
    cache.store({"k": EMBEDDINGS})
    content = bytearray(cache.path("k").read_bytes())
    content[-2] ^= 1
    cache.path("k").write_bytes(content)
    assert cache.load("k", shape=(3, 4)) is None
    assert "content does not match its hash" in caplog.text


def test_a_foreign_file_or_shape_counts_as_not_there(cache: TextCache) -> None:
    cache.store({"k": EMBEDDINGS})
    assert cache.load("k", shape=(3, 5)) is None
    save_file({"embeddings": EMBEDDINGS}, cache.path("k"))
    assert cache.load("k", shape=(3, 4)) is None
    save_file({"other": EMBEDDINGS}, cache.path("k"))
    assert cache.load("k", shape=(3, 4)) is None


def test_a_folder_that_cannot_be_written_costs_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("not a folder")
    cache = TextCache(tmp_path / "file")
    cache.store({"k": EMBEDDINGS})
    assert "text embeddings are not cached" in caplog.text
    assert "CMPF_CACHE" in caplog.text
    assert cache.load("k", shape=(3, 4)) is None


def test_the_cache_keeps_to_its_size_and_drops_what_was_not_read_for_the_longest_time(tmp_path: Path) -> None:
    cache = TextCache(tmp_path, max_bytes=3 * BLOCK_BYTES)  # each of these small files takes a block
    for number, key in enumerate("abc"):
        cache.store({key: EMBEDDINGS})
        os.utime(cache.path(key), (number, number))  # clocks of file systems may be coarse
    assert cache.load("a", shape=(3, 4)) is not None  # read now: b is the oldest
    cache.store({"d": EMBEDDINGS, "e": EMBEDDINGS})
    assert {path.stem for path in tmp_path.iterdir()} == {"a", "d", "e"}


def test_many_vocabularies_leave_one_file_a_class(tmp_path: Path, clip: CLIP) -> None:
    words = ["cat", "dog", "sky"]
    vocabularies = [order for count in (1, 2, 3) for order in permutations(words, count)]
    assert len(vocabularies) == 3 + 6 + 6
    for vocabulary in vocabularies:
        embed_vocabulary(clip, [[word] for word in vocabulary], cache=TextCache(tmp_path))
    assert len(list(tmp_path.iterdir())) == len(words)


def embeddings(value: float) -> ClassEmbeddings:
    return ClassEmbeddings(torch.full((1, 2), value), torch.zeros(1, dtype=torch.int64), num_classes=1)


CPU = torch.device("cpu")


def test_threads_that_ask_for_the_same_new_vocabulary_encode_it_once() -> None:
    memory, made, together = EmbeddingCache(), [], threading.Barrier(4)

    def make() -> ClassEmbeddings:
        made.append(1)
        time.sleep(0.05)
        return embeddings(1.0)

    def ask(_: int) -> ClassEmbeddings:
        together.wait(timeout=30)
        return memory.get("new", CPU, make)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(ask, range(4)))
    assert made == [1]
    assert all(one is found[0] for one in found)


def test_what_is_forgotten_while_it_is_encoded_is_not_kept() -> None:
    memory = EmbeddingCache()

    def make() -> ClassEmbeddings:
        memory.clear()  # CLIP got other weights meanwhile
        return embeddings(1.0)

    memory.get("a", CPU, make)
    assert memory.get("a", CPU, lambda: embeddings(2.0)).matrix[0, 0] == 2.0


def test_a_vocabulary_that_cannot_be_encoded_blocks_nobody() -> None:
    memory = EmbeddingCache()
    with pytest.raises(ZeroDivisionError):
        memory.get("a", CPU, lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    assert memory.get("a", CPU, lambda: embeddings(2.0)).matrix[0, 0] == 2.0


def test_between_the_encoding_and_the_entry_no_thread_encodes_again() -> None:
    """Another thread gets its turn whenever the lock of the cache is released after the encoding."""
    memory, made = EmbeddingCache(), []

    class Lock:
        lock, encoded = threading.Lock(), False

        def __enter__(self) -> None:
            self.lock.acquire()

        def __exit__(self, *_: object) -> None:
            self.lock.release()
            if self.encoded:
                self.encoded = False
                memory.get("a", CPU, make)

    def make() -> ClassEmbeddings:
        made.append(1.0)
        lock.encoded = len(made) == 1
        return embeddings(1.0)

    memory._lock = lock = Lock()  # type: ignore[assignment]
    memory.get("a", CPU, make)
    assert len(made) == 1


def test_a_vocabulary_in_memory_leaves_no_lock_behind() -> None:
    memory = EmbeddingCache()
    for _ in range(2):
        memory.get("a", CPU, lambda: embeddings(1.0))
    assert len(memory._in_progress) == 0


def test_only_the_latest_vocabularies_stay_in_memory() -> None:
    memory = EmbeddingCache()
    for number in range(CACHED_VOCABULARIES + 3):
        memory.get(str(number), CPU, lambda: embeddings(1.0))
    assert len(memory) == CACHED_VOCABULARIES
    assert memory.get("2", CPU, lambda: embeddings(5.0)).matrix[0, 0] == 5.0
    assert memory.get("34", CPU, lambda: embeddings(5.0)).matrix[0, 0] == 1.0
