# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Work on images that come, while the last one is still being used."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from multiprocessing.context import BaseContext
from types import SimpleNamespace
from typing import Any, TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


class Taken:
    """How much is at work, of several rooms in one process or, made in a context of multiprocessing, in several."""

    def __init__(self, context: BaseContext | None = None) -> None:
        self.condition: Any = threading.Condition() if context is None else context.Condition()
        self.size: Any = SimpleNamespace(value=0) if context is None else context.Value("q", 0, lock=False)


class Room:
    """Bounds what is at work at once, from reading an item to the end of what is done with it.

    Args:
        size: of all items at work together; one that is larger is at work alone.
        size_of: that of an item.
        taken: counts what is at work in other rooms of this size, too; None = there are no others.
    """

    def __init__(self, size: int, size_of: Callable[[Any], int], taken: Taken | None = None) -> None:
        self._size, self._size_of, self._all = size, size_of, taken or Taken()
        self._own: dict[Any, int] = {}
        self.ending: deque[Future[Any]] = deque()  # work that gives room back without anybody waiting for it

    def take(self, item: Any, *, anyway: bool) -> bool:
        """Takes room for an item, after waiting for what is ending; False = others at work need it first.

        Args:
            anyway: there is nobody else here who could give some back; what is at work elsewhere is waited for, unless
                items are held here that wait for this one.
        """
        size = self._size_of(item)
        for future in list(self.ending):
            if self._taken(item, size):
                return True
            wait([future])
        if self._taken(item, size):
            return True
        if anyway:
            with self._all.condition:
                while not self._own and not self._fits(size):
                    self._all.condition.wait()
                self._add(item, size)
        return anyway

    def _taken(self, item: Any, size: int) -> bool:
        with self._all.condition:
            if fits := self._fits(size):
                self._add(item, size)
            return fits

    def _fits(self, size: int) -> bool:
        taken: int = self._all.size.value
        return taken == 0 or taken + size <= self._size

    def _add(self, item: Any, size: int) -> None:
        self._own[item] = size
        self._all.size.value += size

    def give_back(self, item: Any) -> None:
        """The item is done with."""
        with self._all.condition:
            self._all.size.value -= self._own.pop(item, 0)
            self._all.condition.notify_all()

    def close(self) -> None:
        """Nothing is done any more."""
        for item in list(self._own):
            self.give_back(item)


def ahead(
    work: Callable[[In], Out], items: Iterable[In], *, threads: int, room: Room | None = None
) -> Generator[Out]:
    """`map(work, items)` by several threads, in order, at most two results per thread ahead of the reader.

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
