# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
from helpers.toy_training import ToyModel, toy_trainer
from torch.profiler import record_function

from cmpf.engine.profiling import TRACE_FILE, Profile, profile_evaluation, profile_training


def test_steps_are_split_into_sections_and_traced(tmp_path: Path) -> None:
    model = ToyModel()
    trainer = toy_trainer(tmp_path, model=model)
    profile = profile_training(trainer, iterations=2, folder=tmp_path)
    assert list(profile.seconds) == ["data", "decoder", "backward", "optimizer", "other"]
    assert all(seconds >= 0 for seconds in profile.seconds.values())
    assert sum(profile.seconds.values()) == pytest.approx(profile.total)
    names = {event.get("name") for event in json.loads((tmp_path / TRACE_FILE).read_text())["traceEvents"]}
    assert {"data", "decoder", "backward", "optimizer"} <= names
    assert profile.images == 2  # of a batch
    assert trainer.loader.state_dict() == {"position": 4}  # 2 to warm up, 2 measured


def test_without_a_folder_nothing_is_traced(tmp_path: Path) -> None:
    profile = profile_training(toy_trainer(tmp_path, model=ToyModel()), iterations=1, folder=None)
    assert profile.iterations == 1
    assert list(tmp_path.iterdir()) == []


class Watcher:
    """An evaluator that notes what it is given."""

    def __init__(self) -> None:
        self.seen: list[tuple[list[int], list[int]]] = []

    def reset(self) -> None:
        """What was given stays noted, however often the dataset begins again."""

    def process(self, samples: list[int], outputs: list[int]) -> None:
        assert not torch.is_grad_enabled()
        self.seen.append((samples, outputs))


def infer(batch: list[int]) -> list[int]:
    time.sleep(0.02)
    with record_function("frozen encoders"):
        time.sleep(0.1)
    return [2 * number for number in batch]


def test_an_evaluation_is_split_into_sections_and_goes_round_a_small_dataset(tmp_path: Path) -> None:
    watcher = Watcher()
    profile = profile_evaluation(infer, [[1, 2], [3]], [watcher], iterations=3, folder=tmp_path)
    assert list(profile.seconds) == ["data", "frozen encoders", "post-processing", "evaluators", "other"]
    assert sum(profile.seconds.values()) == pytest.approx(profile.total)
    # A section counts without those inside it.
    assert profile.seconds["frozen encoders"] >= 0.1
    assert 0.02 <= profile.seconds["post-processing"] < 0.1
    # Two steps to warm up, three measured: batches of 2, 1 | 2, 1, 2 images.
    assert [samples for samples, _ in watcher.seen] == [[1, 2], [3]] * 2 + [[1, 2]]
    assert all(outputs == [2 * number for number in samples] for samples, outputs in watcher.seen)
    assert profile.images == pytest.approx((2 + 1 + 2) / 3)
    names = {event.get("name") for event in json.loads((tmp_path / TRACE_FILE).read_text())["traceEvents"]}
    assert {"data", "frozen encoders", "post-processing", "evaluators"} <= names


def test_the_table_has_a_line_a_section() -> None:
    table = Profile(iterations=4, seconds={"data": 0.03, "backward": 0.07}, total=0.1, images=2).table()
    assert [line.split() for line in table.splitlines()] == [
        ["mean", "of", "4", "steps,", "20", "images", "a", "second"],  # 2 images in 0.1 s
        ["section", "ms", "share"],
        ["data", "30.00", "30.0%"],
        ["backward", "70.00", "70.0%"],
        ["step", "100.00", "100.0%"],
    ]
