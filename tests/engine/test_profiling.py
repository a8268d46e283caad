# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.toy_training import ToyModel, toy_trainer

from cmpf.engine.profiling import TRACE_FILE, Profile, profile_training


def test_steps_are_split_into_sections_and_traced(tmp_path: Path) -> None:
    model = ToyModel()
    trainer = toy_trainer(tmp_path, model=model)
    profile = profile_training(
        trainer, iterations=2, parts={"frozen encoders": (model.frozen, "forward")}, folder=tmp_path
    )
    assert list(profile.seconds) == ["data", "frozen encoders", "decoder", "backward", "optimiser", "other"]
    assert all(seconds >= 0 for seconds in profile.seconds.values())
    assert sum(profile.seconds.values()) == pytest.approx(profile.total)
    names = {event.get("name") for event in json.loads((tmp_path / TRACE_FILE).read_text())["traceEvents"]}
    assert {"data", "frozen encoders", "decoder", "backward", "optimiser"} <= names
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


def test_the_table_has_a_line_a_section() -> None:
    table = Profile(iterations=4, seconds={"data": 0.03, "backward": 0.07}, total=0.1).table()
    assert [line.split() for line in table.splitlines()] == [
        ["mean", "of", "4", "steps"],
        ["section", "ms", "share"],
        ["data", "30.00", "30.0%"],
        ["backward", "70.00", "70.0%"],
        ["step", "100.00", "100.0%"],
    ]
