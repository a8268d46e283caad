# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Prefetching with a thread pool, and a budget that bounds the memory of all images in flight."""

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


def prefetch(
    function: Callable[[In], Out], items: Iterable[In], *, threads: int, budget: Budget | None = None
) -> Generator[Out]:
    """`map(function, items)` on several threads, in order, at most two results per thread ahead of the consumer.

    Args:
        budget: bounds the items in flight. It is acquired for each item here; the consumer releases it.
    """
    pending: deque[Future[Out]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="cmpf-prefetch")
    try:
        for item in items:
            while len(pending) > 2 * threads or not (
                budget is None or budget.acquire(item, force=not pending)
            ):
                yield pending.popleft().result()
            pending.append(pool.submit(function, item))
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


class BudgetUsage:
    """The used part of a budget, shared by several threads.

    Args:
        context: a multiprocessing context, to share it among processes, too.
    """

    def __init__(self, context: BaseContext | None = None) -> None:
        self.condition: Any = threading.Condition() if context is None else context.Condition()
        self.total: Any = SimpleNamespace(value=0) if context is None else context.Value("q", 0, lock=False)


class Budget:
    """Bounds the total cost of the items in flight, from reading an item to writing its results.

    Args:
        limit: total cost of all items in flight. An item that costs more is in flight alone.
        cost: returns the cost of an item.
        usage: shared by all budgets with the same limit; None = this is the only one.
    """

    def __init__(self, limit: int, cost: Callable[[Any], int], usage: BudgetUsage | None = None) -> None:
        self._limit, self._cost, self._usage = limit, cost, usage or BudgetUsage()
        self._held: dict[Any, int] = {}
        # Futures that release items when they complete.
        self.releasing: deque[Future[Any]] = deque()

    def acquire(self, item: Any, *, force: bool) -> bool:
        """Acquires the cost of an item; waits for the futures in `releasing` if necessary.

        Args:
            force: never return False. If this budget holds no items, wait until others release theirs; else exceed
                the limit, because the consumer may wait for this item before it releases those.
        Returns:
            False if the item does not fit and `force` is False.
        """
        cost = self._cost(item)
        for future in list(self.releasing):
            if self._try_acquire(item, cost):
                return True
            wait([future])
        if self._try_acquire(item, cost):
            return True
        if force:
            with self._usage.condition:
                while not self._held and not self._fits(cost):
                    self._usage.condition.wait()
                self._add(item, cost)
        return force

    def release(self, item: Any) -> None:
        """Releases the cost of an item; does nothing if the item is not held."""
        with self._usage.condition:
            self._usage.total.value -= self._held.pop(item, 0)
            self._usage.condition.notify_all()

    def close(self) -> None:
        """Releases all items."""
        for item in list(self._held):
            self.release(item)

    def _try_acquire(self, item: Any, cost: int) -> bool:
        with self._usage.condition:
            if fits := self._fits(cost):
                self._add(item, cost)
            return fits

    def _fits(self, cost: int) -> bool:
        total: int = self._usage.total.value
        return total == 0 or total + cost <= self._limit

    def _add(self, item: Any, cost: int) -> None:
        self._held[item] = cost
        self._usage.total.value += cost
