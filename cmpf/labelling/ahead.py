# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Work on images that come, while the last one is still being used."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


class Room:
    """Bounds what is at work at once, from reading an item to the end of what is done with it.

    Args:
        size: of all items at work together; one that is larger is at work alone.
        size_of: that of an item.
    """

    def __init__(self, size: int, size_of: Callable[[Any], int]) -> None:
        self._size, self._size_of = size, size_of
        self._taken: dict[Any, int] = {}
        self.ending: deque[Future[Any]] = deque()  # work that gives room back without anybody waiting for it

    def take(self, item: Any, *, anyway: bool) -> bool:
        """Takes room for an item, after waiting for what is ending; False = others at work need it first.

        Args:
            anyway: there is nobody else who could give some back.
        """
        size = self._size_of(item)
        for future in list(self.ending):
            if self._fits(size):
                break
            wait([future])
        if anyway or self._fits(size):
            self._taken[item] = size
            return True
        return False

    def _fits(self, size: int) -> bool:
        taken = list(self._taken.values())
        return not taken or sum(taken) + size <= self._size

    def give_back(self, item: Any) -> None:
        """The item is done with."""
        self._taken.pop(item, None)


def ahead(
    work: Callable[[In], Out], items: Iterable[In], *, threads: int, room: Room | None = None
) -> Generator[Out]:
    """`map(work, items)` by several threads, in order, at most two results a thread ahead of the reader.

    Args:
        room: what bounds the results and whatever the reader does with them; it gives back what is done with.
    """
    waiting: deque[Future[Out]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="cmpf-ahead")
    try:
        for item in items:
            while len(waiting) > 2 * threads or not (room is None or room.take(item, anyway=not waiting)):
                yield waiting.popleft().result()
            waiting.append(pool.submit(work, item))
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
