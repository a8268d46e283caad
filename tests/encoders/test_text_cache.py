# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The disk cache of text embeddings."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cmpf.encoders.text_cache import TextCache

EMBEDDINGS = torch.arange(12.0).reshape(3, 4)


@pytest.fixture
def cache(tmp_path: Path) -> TextCache:
    return TextCache(tmp_path / "deep" / "text")


def test_what_was_stored_comes_back(cache: TextCache) -> None:
    assert cache.load("k", shape=(3, 4)) is None
    cache.store("k", EMBEDDINGS)
    found = cache.load("k", shape=(3, 4))
    assert found is not None
    assert torch.equal(found, EMBEDDINGS)
    assert [path.name for path in cache.folder.iterdir()] == ["k.safetensors"]


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
    cache.store("k", EMBEDDINGS)
    path = cache.path("k")
    path.write_bytes(path.read_bytes()[:kept])
    with caplog.at_level(logging.WARNING):
        assert cache.load("k", shape=(3, 4)) is None
    assert f"{path} is damaged and will be made again" in caplog.text
    cache.store("k", EMBEDDINGS)
    assert cache.load("k", shape=(3, 4)) is not None


def test_a_flipped_bit_counts_as_damage(cache: TextCache, caplog: pytest.LogCaptureFixture) -> None:
    cache.store("k", EMBEDDINGS)
    content = bytearray(cache.path("k").read_bytes())
    content[-2] ^= 1
    cache.path("k").write_bytes(content)
    assert cache.load("k", shape=(3, 4)) is None
    assert "content does not match its hash" in caplog.text


def test_a_foreign_file_or_shape_counts_as_not_there(cache: TextCache) -> None:
    cache.store("k", EMBEDDINGS)
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
    cache.store("k", EMBEDDINGS)
    assert "text embeddings are not cached" in caplog.text
    assert "CMPF_CACHE" in caplog.text
    assert cache.load("k", shape=(3, 4)) is None
