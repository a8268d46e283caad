# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Processes that make masks; their work is replaced where only their ways are tested."""

from __future__ import annotations

import os
import queue
import signal
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from cmpf.errors import CMPFError, EvaluationError
from tools.sam_masks import pool
from tools.sam_masks.images import SourceImage
from tools.sam_masks.maker import MADE, Outcome

IMAGES = [SourceImage(name, (8, 8)) for name in ("a", "b", "c")]


class FakeJob:
    """Makes masks in no time, but for one image."""

    def __init__(self, issue: Exception | None = None) -> None:
        self.issue = issue

    def maker(self) -> Any:
        def make(source: SourceImage) -> Outcome:
            if self.issue is not None and source.file == "b":
                raise self.issue
            return Outcome(source.file, MADE)

        return make


@pytest.fixture(autouse=True)
def _ctrl_c() -> Iterator[None]:
    """A process ignores Ctrl-C for good; here it is the test's own."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


def results_of(job: FakeJob, parent: int) -> list[Any]:
    results: queue.Queue[Any] = queue.Queue()
    pool._work(job, IMAGES, results, parent)  # type: ignore[arg-type]
    return list(results.queue)


def test_a_process_tells_of_each_image() -> None:
    assert [result.file for result in results_of(FakeJob(), os.getppid())] == ["a", "b", "c"]


def test_a_process_without_its_parent_ends_after_an_image() -> None:
    assert [result.file for result in results_of(FakeJob(), parent=-1)] == ["a"]


def test_an_error_of_ours_reaches_the_parent_as_it_is_and_others_with_their_kind() -> None:
    own = EvaluationError("other settings")
    assert results_of(FakeJob(own), os.getppid())[1] is own
    (_, other) = results_of(FakeJob(ZeroDivisionError("by zero")), os.getppid())
    assert isinstance(other, CMPFError)
    assert str(other) == "ZeroDivisionError: by zero"


def test_the_parent_raises_what_a_process_could_not_do() -> None:
    results: queue.Queue[Any] = queue.Queue()
    results.put(EvaluationError("other settings"))
    with pytest.raises(EvaluationError, match="other settings"):
        pool._next(results, [])


def test_a_process_that_died_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "POLL_SECONDS", 0.01)
    processes = [SimpleNamespace(exitcode=None), SimpleNamespace(exitcode=-9)]
    with pytest.raises(CMPFError, match="ended with exit code -9, out of memory"):
        pool._next(queue.Queue(), processes)


def test_one_job_runs_in_this_process() -> None:
    made = pool.outcomes([FakeJob()], IMAGES)  # type: ignore[list-item]
    assert [outcome.file for outcome in made] == ["a", "b", "c"]
