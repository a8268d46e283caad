# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import pytest
import torch

from cmpf.engine import timing
from cmpf.engine.timing import Stopwatch


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, as its only element."""
    now = [100.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    return now


def test_a_section_counts_without_the_sections_inside_it(clock: list[float]) -> None:
    watch = Stopwatch(torch.device("cpu"))
    watch.start()
    with watch("forward"):
        clock[0] += 1
        with watch("matching"):
            clock[0] += 10
        clock[0] += 2
    clock[0] += 50
    with watch("forward"):
        clock[0] += 4
    assert watch.seconds == {"forward": 7.0, "matching": 10.0}


def test_a_stopped_watch_counts_nothing(clock: list[float]) -> None:
    watch = Stopwatch(torch.device("cpu"))
    with watch("before"):
        clock[0] += 1
    watch.start()
    with watch("during"):
        clock[0] += 1
    watch.stop()
    with watch("after"):
        clock[0] += 1
    assert watch.seconds == {"during": 1.0}


def test_an_error_ends_its_section(clock: list[float]) -> None:
    watch = Stopwatch(torch.device("cpu"))
    watch.start()

    def fail() -> None:
        with watch("bad"):
            clock[0] += 3
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with watch("good"):
        clock[0] += 1
    assert watch.seconds == {"bad": 3.0, "good": 1.0}
