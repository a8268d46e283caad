# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Programs that train: the tiny encoders, their decoder, and tools/train_net.py."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers.scripts import script

from cmpf import weights
from cmpf.config import get_cfg
from cmpf.encoders.tiny import load_tiny_clip, load_tiny_sam
from cmpf.factory import build_model
from cmpf.weights.download import checked_asset

main = script("train_tiny_encoders").main

ROOT = Path(__file__).resolve().parents[2]
TINY = ["--scenes", "6", "--validation", "2", "--clip-steps", "1", "--sam-steps", "1"]
SMALL_BATCHES = ["--clip-batch", "2", "--sam-batch", "2"]


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_a_short_run_writes_loadable_assets_and_prints_the_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = main(["--out", str(tmp_path), *TINY, *SMALL_BATCHES])
    assert set(figures) == {"clip", "sam"}
    load_tiny_clip(folder=tmp_path)
    load_tiny_sam(folder=tmp_path)
    assert len(json.loads((tmp_path / "hashes.json").read_text())) == 3
    shown = capsys.readouterr().out
    assert "tiny CLIP: % of ground-truth regions classified correctly, 2 scenes" in shown
    assert "found by proposals, things" in shown


def test_it_starts_as_a_script_from_anywhere(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tools" / "train_tiny_encoders.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "--only {clip,sam}" in done.stdout


main_ship_tiny_decoder = script("ship_tiny_decoder").main

ASSET = "cmpf_tiny_decoder.safetensors"


def test_the_decoder_goes_in_with_its_hash_and_without_paths_of_the_run(tmp_path: Path) -> None:
    model = build_model(get_cfg("cmpf_tiny", ["MODEL.DEVICE", "cpu"]))
    torch.nn.init.constant_(model.void_embedding.weight, 0.25)
    weights.save(model, tmp_path / "run.safetensors", metadata={"config": f"OUTPUT_DIR: {tmp_path}"})
    assert main_ship_tiny_decoder([str(tmp_path / "run.safetensors"), "--out", str(tmp_path)]) == 0
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
    assert main_ship_tiny_decoder([str(tmp_path / "run.safetensors"), "--out", str(tmp_path / "assets")]) == 1
    assert "run.safetensors" in capsys.readouterr().err
    assert not (tmp_path / "assets").exists()


def train_net(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / "train_net.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_script_ends_with_the_exit_codes_of_its_command_line(tmp_path: Path) -> None:
    wrong = train_net("--config-file", "shapes/nowhere", "OUTPUT_DIR", str(tmp_path))
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("error: 1 issue: shapes/nowhere: no such config file")
    assert wrong.stderr.count("\n") == 1
    unknown = train_net("--unknown")
    assert unknown.returncode == 2
    assert "usage: train_net.py" in unknown.stderr


def test_the_help_text_shows_examples_with_the_scripts_name() -> None:
    shown = train_net("--help").stdout
    assert "  tools/train_net.py --config-file configs/shapes/cmpf_tiny.yaml --resume\n" in shown
    assert "--eval-only" in shown
