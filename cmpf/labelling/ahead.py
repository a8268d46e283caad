# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Work on images that come, while the last one is still being used."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


def ahead(work: Callable[[In], Out], items: Iterable[In], *, threads: int) -> Generator[Out]:
    """`map(work, items)` by several threads, in order, at most two results a thread ahead of the reader."""
    waiting: deque[Future[Out]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="cmpf-ahead")
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
