# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""tools/train_net.py with the real parts: two pictures a batch, a few iterations of the tiny model."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest
from safetensors.torch import load_file

from cmpf.data.shapeworld.__main__ import main as write_shapeworld
from cmpf.engine.records import Record
from cmpf.engine.writers import Writer, build_writers
from tools import train_net

SETTINGS = (
    *("SOLVER.MAX_ITER", "3", "SOLVER.IMS_PER_BATCH", "2", "SOLVER.CHECKPOINT_PERIOD", "2"),
    *("NUM_THREADS", "1", "DATALOADER.NUM_WORKERS", "0", "TEST.ENSEMBLE.POINTS_PER_SIDE", "2"),
    *("MODEL.MASK_FORMER.TEST.MASK_RECALL", "True"),
)


@pytest.fixture(autouse=True)
def _datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    out = str(tmp_path / "datasets" / "shapeworld")
    assert write_shapeworld(["--out", out, "--train", "6", "--val", "2", "--jobs", "1"]) == 0


class Stopper(Writer):
    """Sends this process SIGTERM in the second iteration."""

    def iteration(self, record: Record) -> None:
        if record.iteration == 2:
            os.kill(os.getpid(), signal.SIGTERM)


def train(folder: Path, *arguments: str) -> Mapping[str, list[float]]:
    """The run's final weights."""
    config = ["--config-file", "shapes/cmpf_tiny", *arguments, "OUTPUT_DIR", str(folder), *SETTINGS]
    assert train_net.main(config) == 0
    final = folder / "model_final.safetensors"
    return {k: v.tolist() for k, v in load_file(final).items()} if final.exists() else {}


def test_a_stopped_and_resumed_training_of_the_tiny_model_is_the_uninterrupted_one_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tmp_path / "whole")
    with monkeypatch.context() as patched:
        patched.setattr(train_net, "build_writers", lambda *a, **k: [*build_writers(*a, **k), Stopper()])
        assert train(tmp_path / "parts") == {}
    assert train(tmp_path / "parts", "--resume") == whole

    results = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("whole", "parts")]
    assert results[0] == results[1]
    tasks = results[0]["shapes_val"]
    assert set(tasks) == {"panoptic_seg", "segm", "sem_seg", "mask_recall"}
    assert {"PQ", "S_PQ", "U_PQ"} <= set(tasks["panoptic_seg"])

    weights = str(tmp_path / "whole" / "model_final.safetensors")
    train(tmp_path / "evaluated", "--eval-only", "MODEL.WEIGHTS", weights)
    again = json.loads((tmp_path / "evaluated" / "results.json").read_text())
    assert again == results[0]
