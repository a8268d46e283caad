# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.scripts import script

from cmpf import weights
from cmpf.config import get_cfg
from cmpf.factory import build_model
from cmpf.weights.download import checked_asset

main = script("ship_tiny_decoder").main

ASSET = "cmpf_tiny_decoder.safetensors"


def test_the_decoder_goes_in_with_its_hash_and_without_paths_of_the_run(tmp_path: Path) -> None:
    model = build_model(get_cfg("cmpf_tiny", ["MODEL.DEVICE", "cpu"]))
    torch.nn.init.constant_(model.void_embedding.weight, 0.25)
    weights.save(model, tmp_path / "run.safetensors", metadata={"config": f"OUTPUT_DIR: {tmp_path}"})
    assert main([str(tmp_path / "run.safetensors"), "--out", str(tmp_path)]) == 0
    shipped = checked_asset(ASSET, folder=tmp_path)
    assert set(weights.read_metadata(shipped)) == {"format_version", "encoders", "train_classes"}
    assert str(tmp_path).encode() not in shipped.read_bytes()
    again = build_model(get_cfg("cmpf_tiny", ["MODEL.DEVICE", "cpu"]))
    weights.load(again, shipped)
    for name, value in model.trained_state_dict().items():
        assert torch.equal(value, again.trained_state_dict()[name]), name


def test_damaged_weights_are_refused_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.safetensors").write_bytes(b"no weights")
    assert main([str(tmp_path / "run.safetensors"), "--out", str(tmp_path / "assets")]) == 1
    assert "run.safetensors" in capsys.readouterr().err
    assert not (tmp_path / "assets").exists()
