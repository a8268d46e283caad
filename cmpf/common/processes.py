# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Work for several processes: pools that end in order, and one function over many items."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.context import BaseContext
from typing import Any

from tqdm import tqdm

from cmpf.common.cpu import usable_cores
from cmpf.errors import CMPFError, DatasetError

MAX_DEFAULT_JOBS = 16  # more processes than that wait for the disk
_NO_PLACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # would befall every other item too


@dataclass(frozen=True)
class Result:
    """What a function gave for one item, or why it gave nothing."""

    value: Any = None
    error: str | None = None


def default_jobs() -> int:
    """As many processes as cores that this process may use, capped."""
    return min(usable_cores(), MAX_DEFAULT_JOBS)


@contextmanager
def process_pool(
    jobs: int,
    *,
    context: BaseContext | None = None,
    initializer: Callable[..., object] | None = None,
    initargs: tuple[Any, ...] = (),
) -> Iterator[ProcessPoolExecutor]:
    """A pool whose processes leave Ctrl-C to this one and end when it is killed.

    When the block is left early, each process finishes its item and the items that wait are dropped.
    """
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin, initargs=(initializer, initargs))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def map_items(
    function: Callable[[Any], Any],
    items: Sequence[Any],
    *,
    jobs: int,
    title: str,
    damaged: tuple[type[Exception], ...] = (),
    progress: bool = True,
) -> list[Result]:
    """Calls a function of a module with every item.

    Args:
        function: where it raises CMPFError or one of `damaged`, that is the error of its item.
        jobs: processes; with 1 all is done in this one.
        title: of the progress bar, which is shown on a terminal; opens error messages.
    Returns:
        Results in the order of the items.
    Raises:
        DatasetError: the disk is full or read-only, or a process died.
    """
    guarded = partial(_guarded, function, damaged)
    jobs = min(jobs, len(items))
    bar = partial(tqdm, total=len(items), desc=title, disable=not (progress and sys.stderr.isatty()))
    try:
        if jobs <= 1:
            return list(bar(map(guarded, items)))
        with process_pool(jobs) as pool:
            chunk = max(1, min(32, len(items) // (4 * jobs)))
            return list(bar(pool.map(guarded, items, chunksize=chunk)))
    except BrokenProcessPool as error:
        raise DatasetError(
            f"{title}: a process died, perhaps for lack of memory; run the same command again with fewer --jobs"
        ) from error
    except OSError as error:
        raise DatasetError(f"{title}: {error}; make room and run the same command again") from error


def _guarded(function: Callable[[Any], Any], damaged: tuple[type[Exception], ...], item: Any) -> Result:
    try:
        return Result(value=function(item))
    except CMPFError as error:
        return Result(error=str(error))
    except damaged as error:
        if isinstance(error, OSError) and error.errno in _NO_PLACE:
            raise
        return Result(error=f"{type(error).__name__}: {error}")


def _begin(initializer: Callable[..., object] | None, initargs: tuple[Any, ...]) -> None:
    """The first thing that a process of a pool does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a fork has the handler of its parent, who ends it by this
    # Without its parent it would wait for work, with all its memory, for good.
    when_parent_ends(lambda: os._exit(1))
    if initializer is not None:
        initializer(*initargs)


def when_parent_ends(action: Callable[[], object]) -> None:
    """Calls `action` in a thread once the process that started this one is gone, killed or not."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        action()

    threading.Thread(target=wait, daemon=True).start()
