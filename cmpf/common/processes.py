# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Process pools that shut down cleanly, and a parallel map with one result or error per item."""

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

MAX_DEFAULT_JOBS = 16  # more processes only wait for the disk
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # would affect all other items too


@dataclass(frozen=True)
class Result:
    """The value that a function returned for one item, or its error."""

    value: Any = None
    error: str | None = None


def default_jobs() -> int:
    """Default number of processes: the usable cores, at most MAX_DEFAULT_JOBS."""
    return min(usable_cores(), MAX_DEFAULT_JOBS)


@contextmanager
def process_pool(
    jobs: int,
    *,
    context: BaseContext | None = None,
    initializer: Callable[..., object] | None = None,
    initargs: tuple[Any, ...] = (),
) -> Iterator[ProcessPoolExecutor]:
    """A process pool whose workers ignore Ctrl-C, which this process handles, and end if this process is killed.

    If the block ends early, workers finish their current item and pending items are cancelled.
    """
    pool = ProcessPoolExecutor(
        jobs, mp_context=context, initializer=_initialize_worker, initargs=(initializer, initargs)
    )
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
    """Calls a function with every item, in several processes.

    Args:
        function: a picklable function. If it raises CMPFError or one of `damaged`, that becomes the item's error.
        items: arguments.
        jobs: number of processes; 1 = this process.
        title: title of the progress bar and of error messages.
        damaged: exceptions that concern a single item.
        progress: show a progress bar if stderr is a terminal.
    Returns:
        Results in the order of the items.
    Raises:
        DatasetError: the disk is full or read-only, or a process died.
    """
    guarded = partial(_call, function, damaged)
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


def _call(function: Callable[[Any], Any], damaged: tuple[type[Exception], ...], item: Any) -> Result:
    try:
        return Result(value=function(item))
    except CMPFError as error:
        return Result(error=str(error))
    except damaged as error:
        if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
            raise
        return Result(error=f"{type(error).__name__}: {error}")


def _initialize_worker(initializer: Callable[..., object] | None, initargs: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a fork inherits its parent's handler
    # A worker without its parent would wait for work forever.
    on_parent_exit(lambda: os._exit(1))
    if initializer is not None:
        initializer(*initargs)


def on_parent_exit(action: Callable[[], object]) -> None:
    """Calls `action` in a thread when the parent process ends, also if it is killed."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        action()

    threading.Thread(target=wait, daemon=True).start()
