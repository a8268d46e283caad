# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What a training does to its process: random numbers and their states, and where its time goes."""

from __future__ import annotations

import io
import json
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.toy_training import ToyModel, toy_trainer
from torch.profiler import record_function

from cmpf.engine.profiling import TRACE_FILE, Profile, profile_evaluation, profile_training
from cmpf.engine.seeding import (
    preserved_rng,
    rng_state,
    seed_everything,
    seed_rank,
    set_rank_rng_state,
    set_rng_state,
)


def draw() -> tuple[Any, ...]:
    return random.random(), random.gauss(0, 1), np.random.randn(), np.random.rand(), torch.randn(2).tolist()


def test_equal_seeds_give_equal_numbers_and_different_seeds_do_not() -> None:
    assert seed_everything(3) == 3
    first = draw()
    seed_everything(3)
    assert draw() == first
    seed_everything(4)
    assert draw() != first


def test_a_negative_seed_is_replaced_by_a_fresh_one_that_is_told() -> None:
    seed = seed_everything(-1)
    first = draw()
    assert seed >= 0
    assert seed_everything(-1) != seed
    seed_everything(seed)
    assert draw() == first


def test_a_state_survives_a_file_that_is_read_without_pickled_code() -> None:
    seed_everything(5)
    draw()  # leaves half-used gaussian pairs in Python's and numpy's generators
    file = io.BytesIO()
    torch.save(rng_state(), file)
    expected = draw()
    seed_everything(6)
    set_rng_state(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    assert draw() == expected


def test_preserved_rng_hides_what_happens_inside_even_an_error() -> None:
    seed_everything(8)
    expected = draw()
    seed_everything(8)
    try:
        with preserved_rng():
            draw()
            raise KeyError
    except KeyError:
        pass
    assert draw() == expected


def as_rank(monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    monkeypatch.setattr("cmpf.common.distributed.rank", lambda: rank)


def draws() -> tuple[float, float, float]:
    return torch.rand(1).item(), float(np.random.rand()), random.random()


def test_each_process_draws_numbers_of_its_own_and_the_first_those_of_a_single_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []
    for rank in (0, 1, 2, 1):
        seed_everything(5)
        as_rank(monkeypatch, rank)
        seed_rank(5)
        seen.append(draws())
    seed_everything(5)
    assert seen[0] == draws()
    assert seen[1] == seen[3]
    assert len({*seen}) == 3


def test_each_process_takes_up_its_own_state_and_one_that_has_none_gets_new_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    states, expected = [], []
    for seed in (1, 2):
        seed_everything(seed)
        states.append(rng_state())
        expected.append(draws())
    found = []
    for rank in (0, 1, 2, 3):
        as_rank(monkeypatch, rank)
        set_rank_rng_state(states, iteration=10)
        found.append(draws())
    assert found[:2] == expected
    assert len({*found}) == 4


def test_a_state_of_a_single_process_is_that_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    seed_everything(1)
    state = rng_state()
    expected = draws()
    set_rank_rng_state(state, iteration=10)
    assert draws() == expected


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
        ["mean", "of", "4", "steps,", "20", "images", "per", "second"],  # 2 images in 0.1 s
        ["section", "ms", "share"],
        ["data", "30.00", "30.0%"],
        ["backward", "70.00", "70.0%"],
        ["step", "100.00", "100.0%"],
    ]
