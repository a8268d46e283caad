# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import gzip
import json
from pathlib import Path

import torch
from torch import nn

from cmpf.encoders.tiny_training.export import save_merges, save_weights
from cmpf.weights.download import ASSETS, checked_asset
from cmpf.weights.reading import load_checked_weights


def test_weights_come_back_rounded_to_half_precision_and_readable_by_all(tmp_path: Path) -> None:
    layer = nn.Linear(4, 3)
    save_weights(layer, tmp_path, "layer.safetensors")
    loaded = load_checked_weights("layer.safetensors", folder=tmp_path)
    assert torch.equal(loaded["weight"], layer.weight.detach().half().float())
    assert (tmp_path / "layer.safetensors").stat().st_mode & 0o777 == 0o644
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hashes.json", "layer.safetensors"]


def test_saving_again_renews_one_hash_and_keeps_the_others(tmp_path: Path) -> None:
    save_weights(nn.Linear(1, 1), tmp_path, "a.safetensors")
    save_weights(nn.Linear(1, 1), tmp_path, "b.safetensors")
    before = json.loads((tmp_path / "hashes.json").read_text())
    save_weights(nn.Linear(1, 1), tmp_path, "b.safetensors")
    after = json.loads((tmp_path / "hashes.json").read_text())
    assert before["a.safetensors"] == after["a.safetensors"]
    assert before["b.safetensors"] != after["b.safetensors"]
    checked_asset("b.safetensors", folder=tmp_path)


def test_the_shipped_merges_are_what_the_tool_writes(tmp_path: Path) -> None:
    save_merges(tmp_path, "merges.gz")
    text = gzip.decompress((tmp_path / "merges.gz").read_bytes())
    assert text == gzip.decompress((ASSETS / "bpe_2000_merges.txt.gz").read_bytes())
    # A head line, then the merges.
    assert len(text.decode().split("\n")) == 2001
