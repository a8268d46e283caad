# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers.scripts import script

from cmpf.encoders.tiny import load_tiny_clip, load_tiny_sam

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
    assert "tiny CLIP: % of ground-truth regions named rightly, 2 scenes" in shown
    assert "found by proposals, things" in shown


def test_it_starts_as_a_script_from_anywhere(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tools" / "train_tiny_encoders.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "--only {clip,sam}" in done.stdout
