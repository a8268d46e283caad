# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import io
import random
from typing import Any

import numpy as np
import pytest
import torch

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
