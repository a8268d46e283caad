# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers.toy_training import ToyModel, toy_trainer

from cmpf.engine.profiling import TRACE_FILE, Profile, profile_evaluation, profile_training


def test_steps_are_split_into_sections_and_traced(tmp_path: Path) -> None:
    model = ToyModel()
    trainer = toy_trainer(tmp_path, model=model)
    profile = profile_training(
        trainer, iterations=2, parts={"frozen encoders": (model.frozen, "forward")}, folder=tmp_path
    )
    assert list(profile.seconds) == ["data", "frozen encoders", "decoder", "backward", "optimizer", "other"]
    assert all(seconds >= 0 for seconds in profile.seconds.values())
    assert sum(profile.seconds.values()) == pytest.approx(profile.total)
    names = {event.get("name") for event in json.loads((tmp_path / TRACE_FILE).read_text())["traceEvents"]}
    assert {"data", "frozen encoders", "decoder", "backward", "optimizer"} <= names
    assert profile.images == 2  # of a batch
    assert trainer.loader.state_dict() == {"position": 6}  # 2 to warm up, 2 measured, 2 traced
    assert "forward" not in vars(model.frozen)  # methods are as they were
    assert not trainer.step.watch.running


def test_without_a_folder_nothing_is_traced_and_own_attributes_come_back(tmp_path: Path) -> None:
    model = ToyModel()
    calls = []
    model.frozen.forward = lambda x: calls.append(1) or x  # type: ignore[method-assign,func-returns-value]
    own = vars(model.frozen)["forward"]
    parts = {"frozen encoders": (model.frozen, "forward")}
    profile = profile_training(toy_trainer(tmp_path, model=model), iterations=1, parts=parts, folder=None)
    assert len(calls) == 3
    assert vars(model.frozen)["forward"] is own
    assert profile.iterations == 1
    assert list(tmp_path.iterdir()) == []


class Watcher:
    """An evaluator that notes what it is given."""

    def __init__(self) -> None:
        self.seen: list[tuple[list[int], list[int]]] = []

    def process(self, samples: list[int], outputs: list[int]) -> None:
        assert not torch.is_grad_enabled()
        self.seen.append((samples, outputs))


class Doubler:
    def infer(self, batch: list[int]) -> list[int]:
        return [2 * number for number in self.encode(batch)]

    def encode(self, batch: list[int]) -> list[int]:
        return batch


def test_an_evaluation_is_split_into_sections_and_goes_round_a_small_dataset(tmp_path: Path) -> None:
    model, watcher = Doubler(), Watcher()
    profile = profile_evaluation(
        model.infer,
        [[1, 2], [3]],
        [watcher],
        device=torch.device("cpu"),
        iterations=3,
        parts={"frozen encoders": (model, "encode")},
        folder=tmp_path,
    )
    assert list(profile.seconds) == ["data", "frozen encoders", "post-processing", "evaluators", "other"]
    assert sum(profile.seconds.values()) == pytest.approx(profile.total)
    # Two steps to warm up, three measured, two traced: batches of 2, 1 | 2, 1, 2 | 1, 2 images.
    assert [samples for samples, _ in watcher.seen] == [[1, 2], [3]] * 3 + [[1, 2]]
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
