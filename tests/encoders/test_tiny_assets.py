# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cmpf.errors import WeightsError
from cmpf.weights.assets import ASSETS, checked_asset, expected_hash, load_checked_weights

NAME = "weights.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one good file of weights and the list of hashes."""
    save_file({"half": torch.tensor([0.5], dtype=torch.float16), "count": torch.tensor([3])}, tmp_path / NAME)
    digest = hashlib.sha256((tmp_path / NAME).read_bytes()).hexdigest()
    (tmp_path / "hashes.json").write_text(json.dumps({NAME: digest}))
    return tmp_path


def test_a_whole_file_is_loaded_as_float32_and_integers_stay(folder: Path) -> None:
    tensors = load_checked_weights(NAME, folder=folder)
    assert tensors["half"].dtype == torch.float32
    assert tensors["half"].item() == 0.5
    assert tensors["count"].dtype == torch.int64


def test_one_changed_byte_is_found_and_the_message_names_file_and_fix(folder: Path) -> None:
    content = bytearray((folder / NAME).read_bytes())
    content[-1] ^= 1
    (folder / NAME).write_bytes(content)
    with pytest.raises(WeightsError, match=r"weights\.safetensors: damaged.*train_tiny_encoders\.py"):
        load_checked_weights(NAME, folder=folder)


def test_a_missing_file_is_named_with_the_fix(folder: Path) -> None:
    (folder / NAME).unlink()
    with pytest.raises(WeightsError, match=r"weights\.safetensors: not there\. Reinstall CMPF"):
        checked_asset(NAME, folder=folder)


@pytest.mark.parametrize("content", ["", "[]", "{}", "not json", None])
def test_a_broken_list_of_hashes_is_named(folder: Path, content: str | None) -> None:
    if content is None:
        (folder / "hashes.json").unlink()
    else:
        (folder / "hashes.json").write_text(content)
    with pytest.raises(WeightsError, match=r"hashes\.json: no SHA-256 of weights\.safetensors"):
        expected_hash(NAME, folder=folder)


def test_all_shipped_files_are_whole_and_all_assets_under_ten_megabytes() -> None:
    names = json.loads((ASSETS / "hashes.json").read_text())
    assert set(names) == {
        "bpe_2000_merges.txt.gz",
        "cmpf_tiny_clip.safetensors",
        "cmpf_tiny_decoder.safetensors",
        "cmpf_tiny_sam.safetensors",
    }
    assert all(checked_asset(name).is_file() for name in names)
    assert sum(path.stat().st_size for path in ASSETS.rglob("*") if path.is_file()) < 10_000_000
