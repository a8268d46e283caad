# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""One function over many items, in several processes."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from tqdm import tqdm

from cmpf.errors import CMPFError, DatasetError
from cmpf.formats.image import DAMAGED

MAX_DEFAULT_JOBS = 16  # more processes than that wait for the disk
_NO_PLACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # would befall every other item too


@dataclass(frozen=True)
class Outcome:
    """What a function gave for one item, or why it gave nothing."""

    value: Any = None
    error: str | None = None


def default_jobs() -> int:
    """As many processes as CPUs that this process may use, capped."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(usable, MAX_DEFAULT_JOBS))


def work_off(function: Callable[[Any], Any], items: Sequence[Any], *, jobs: int, title: str) -> list[Outcome]:
    """Calls a function of a module with every item; shows progress on a terminal.

    Args:
        function: what it raises about damaged files (OSError, ValueError, CMPFError, ...) becomes the outcome
            of that item.
        jobs: processes; with 1 all is done in this one.
    Returns:
        Outcomes in the order of the items.
    Raises:
        DatasetError: the disk is full or read-only, or a process died.
    """
    guarded = partial(_guarded, function)
    try:
        with _mapper(min(jobs, len(items))) as mapped:
            bar = tqdm(mapped(guarded, items), total=len(items), desc=title, disable=not sys.stderr.isatty())
            return list(bar)
    except BrokenProcessPool as error:
        raise DatasetError(
            f"{title}: a process died, perhaps for lack of memory; run the same command again with fewer --jobs"
        ) from error
    except OSError as error:
        raise DatasetError(f"{title}: {error}; make room and run the same command again") from error


@contextmanager
def _mapper(jobs: int) -> Iterator[Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]]:
    if jobs <= 1:
        yield map
        return
    pool = ProcessPoolExecutor(jobs)
    try:
        yield lambda function, items: pool.map(
            function, items, chunksize=max(1, min(32, len(items) // (4 * jobs)))
        )
    finally:
        pool.shutdown(cancel_futures=True)


def _guarded(function: Callable[[Any], Any], item: Any) -> Outcome:
    try:
        return Outcome(value=function(item))
    except CMPFError as error:
        return Outcome(error=str(error))
    except DAMAGED as error:
        if isinstance(error, OSError) and error.errno in _NO_PLACE:
            raise
        return Outcome(error=f"{type(error).__name__}: {error}")
