# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from cmpf.encoders import pair as side_stream
from cmpf.encoders.pair import start_beside

CUDA = torch.device("cuda")


def test_on_a_cpu_the_work_is_done_at_once() -> None:
    done: list[int] = []

    def work() -> torch.Tensor:
        done.append(1)
        return torch.ones(2)

    result = start_beside(work, torch.device("cpu"))
    assert done == [1]
    assert torch.equal(result(), torch.ones(2))
    assert done == [1]


class Stream:
    """Stands for a CUDA stream; tells what is asked of it."""

    def __init__(self, name: str, told: list[str]) -> None:
        self.name, self.told = name, told

    def wait_stream(self, other: Stream) -> None:
        self.told.append(f"{self.name} waits for {other.name}")


class Result:
    def __init__(self, told: list[str]) -> None:
        self.told = told

    def record_stream(self, stream: Stream) -> None:
        self.told.append(f"result is used by {stream.name}")


def test_streams_wait_for_each_other_at_both_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    caller, side = Stream("caller", told), Stream("side", told)

    @contextmanager
    def inside(stream: Stream) -> Iterator[None]:
        told.append(f"in {stream.name}")
        yield
        told.append(f"out of {stream.name}")

    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: caller)
    monkeypatch.setattr(torch.cuda, "stream", inside)
    monkeypatch.setattr(side_stream, "_side_stream", lambda _: side)
    result = start_beside(lambda: told.append("work") or Result(told), CUDA)
    assert told == ["side waits for caller", "in side", "work", "out of side"]
    result()
    assert told[4:] == ["caller waits for side", "result is used by caller"]


@pytest.mark.gpu
def test_work_beside_sees_what_came_before_and_is_seen_by_what_comes_after() -> None:
    x = torch.zeros(4096, 4096, device=CUDA)
    for step in range(20):
        x = x + 1  # on the caller's stream
        given = x
        result = start_beside(lambda given=given: given @ torch.eye(4096, device=CUDA), CUDA)
        busy = torch.rand(2048, 2048, device=CUDA) @ torch.rand(2048, 2048, device=CUDA)
        assert float((result() - (step + 1)).abs().max()) == 0
        del busy
