# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import errno
import os

import pytest
from preparation.work import MAX_DEFAULT_JOBS, default_jobs, work_off

from cmpf.errors import DatasetError, ImageError


def inverse(value: int) -> float:
    if value == 2:
        raise ImageError("two.png: damaged")
    if value == 3:
        raise OSError("cannot read")
    if value == 4:
        raise ValueError("odd")
    return 1 / value


def full_disk(value: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def die(value: int) -> None:
    os._exit(1)


def bug(value: int) -> None:
    raise KeyError("bug")


@pytest.mark.parametrize("jobs", [1, 2, 50])
def test_outcomes_are_in_order_and_errors_belong_to_their_item(jobs: int) -> None:
    outcomes = work_off(inverse, [1, 2, 3, 4, 5], jobs=jobs, title="inverse")
    assert [outcome.value for outcome in outcomes] == [1.0, None, None, None, 0.2]
    assert [outcome.error for outcome in outcomes] == [
        None,
        "two.png: damaged",
        "OSError: cannot read",
        "ValueError: odd",
        None,
    ]


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_full_disk_ends_the_work(jobs: int) -> None:
    with pytest.raises(DatasetError, match=r"labels: .*No space left on device; make room"):
        work_off(full_disk, [1, 2, 3], jobs=jobs, title="labels")


@pytest.mark.parametrize("jobs", [1, 2])
def test_errors_of_the_script_itself_are_not_taken_for_damage(jobs: int) -> None:
    with pytest.raises(KeyError):
        work_off(bug, [1, 2, 3], jobs=jobs, title="labels")


def test_a_process_that_dies_ends_the_work() -> None:
    with pytest.raises(DatasetError, match=r"a process died, perhaps for lack of memory.*fewer --jobs"):
        work_off(die, [1, 2, 3], jobs=2, title="labels")


def test_nothing_to_do_gives_nothing() -> None:
    assert work_off(inverse, [], jobs=4, title="inverse") == []


def test_default_jobs_are_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(200)), raising=False)
    assert default_jobs() == MAX_DEFAULT_JOBS
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert default_jobs() == 1
