# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from cmpf.engine.records import Record, Window, max_memory

RECORD = Record(
    iteration=1,
    max_iter=10,
    total_loss=6.0,
    losses={"loss_ce": 4.0, "loss_ce_0": 2.0},
    lr=0.1,
    grad_norm=1.0,
    data_time=0.5,
    step_time=1.5,
    max_memory=100.0,
)


def test_time_left_is_the_pace_times_what_is_left() -> None:
    assert replace(RECORD, iteration=4).eta_seconds == 12.0  # 6 iterations * (0.5 + 1.5) s


def test_main_losses_are_those_of_the_last_head() -> None:
    losses = {"loss_ce": 1.0, "loss_mask": 2.0, "loss_ce_0": 3.0, "loss_mask_8": 4.0}
    assert replace(RECORD, losses=losses).main_losses == {"loss_ce": 1.0, "loss_mask": 2.0}


def test_a_window_gives_means_and_starts_anew() -> None:
    window = Window()
    second = replace(
        RECORD, iteration=2, total_loss=2.0, losses={"loss_ce": 2.0, "loss_ce_0": 0.0}, lr=0.2, step_time=0.5
    )
    window.add(RECORD)
    window.add(second)
    # (6 + 2) / 2, (4 + 2) / 2, (2 + 0) / 2, (1.5 + 0.5) / 2; rate and iteration are the latest
    assert window.summary(second) == replace(
        second, total_loss=4.0, losses={"loss_ce": 3.0, "loss_ce_0": 1.0}, step_time=1.0
    )
    window.add(second)
    assert window.summary(second) == second


def test_a_saved_window_goes_on() -> None:
    window, again = Window(), Window()
    window.add(RECORD)
    again.load_state_dict(json.loads(json.dumps(window.state_dict())))
    again.add(replace(RECORD, total_loss=2.0))
    assert again.summary(RECORD).total_loss == 4.0


def test_memory_on_the_cpu_is_that_of_the_process() -> None:
    memory = max_memory(torch.device("cpu"))
    assert memory == pytest.approx(memory, abs=0)
    assert memory is not None
    assert 50 < memory < 100_000  # MiB: Python with torch takes at least a hundred
