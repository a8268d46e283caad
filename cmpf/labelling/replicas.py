# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Several models at work, each in a process of its own: one a GPU, or some that share the cores."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

from cmpf.common.cpu import usable_cores
from cmpf.common.processes import process_pool
from cmpf.errors import CMPFError
from cmpf.labelling.configuration import configuration_of
from cmpf.labelling.pipeline import Finished, Replica, Work
from cmpf.labelling.sources import Source

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor

CHUNK = 16  # images that a process gets at a time
_replica: Replica | None = None  # that of this process


class Engine(Protocol):
    """What segments: a model here, or several elsewhere."""

    def configuration(self, options: dict[str, Any]) -> dict[str, Any]:
        """See configuration_of."""
        ...

    def run(self, sources: Sequence[Source], stopped: Callable[[], bool]) -> Iterator[Finished]:
        """See Replica.run."""
        ...


class Here:
    """One model in this process."""

    def __init__(self, work: Work, device: str | None) -> None:
        self.replica = Replica(work, device)

    def configuration(self, options: dict[str, Any]) -> dict[str, Any]:
        """See configuration_of."""
        return configuration_of(self.replica.predictor, self.replica.words, **options)

    def run(self, sources: Sequence[Source], stopped: Callable[[], bool]) -> Iterator[Finished]:
        """See Replica.run."""
        return self.replica.run(sources, stopped)


class Elsewhere:
    """Models in processes."""

    def __init__(self, pool: ProcessPoolExecutor, count: int) -> None:
        self.pool, self.count = pool, count

    def configuration(self, options: dict[str, Any]) -> dict[str, Any]:
        """See configuration_of; one of the processes tells it."""
        with _told():
            return self.pool.submit(_configuration, options).result()

    def run(self, sources: Sequence[Source], stopped: Callable[[], bool]) -> Iterator[Finished]:
        """See Replica.run; each process gets some images at a time, and two lots ahead at most."""
        # Of few images, or at the end, no process shall have much while others have nothing.
        size = max(1, min(CHUNK, len(sources) // (4 * self.count)))
        rest = iter(sources)
        working: set[Future[list[Finished]]] = set()
        with _told():
            while True:
                while len(working) < 2 * self.count and not stopped() and (lot := list(islice(rest, size))):
                    working.add(self.pool.submit(_run, lot))
                if not working:
                    return
                done, working = wait(working, return_when=FIRST_COMPLETED)
                for future in done:
                    yield from future.result()
                if stopped():
                    working = {future for future in working if not future.cancel()}


@contextmanager
def engine(work: Work, devices: Sequence[str | None]) -> Iterator[Engine]:
    """One model for each device; a single one works in this process.

    Args:
        devices: as torch names them, None = the usual one; "cpu" may come several times.
    """
    if len(devices) == 1:
        yield Here(work, devices[0])
        return
    context = multiprocessing.get_context("spawn")  # CUDA does not outlive a fork
    waiting = context.SimpleQueue()
    for device in devices:
        waiting.put(device)
    with process_pool(
        len(devices), context=context, initializer=_load, initargs=(work, waiting, len(devices))
    ) as pool:
        yield Elsewhere(pool, len(devices))


def _load(work: Work, devices: Any, count: int) -> None:
    """The first thing that a process does: it takes a device of its own."""
    global _replica
    import torch

    device = devices.get()
    _replica = Replica(work, device)
    if _replica.predictor.model.device.type == "cpu":
        torch.set_num_threads(max(1, usable_cores() // count))


def _configuration(options: dict[str, Any]) -> dict[str, Any]:
    assert _replica is not None
    return configuration_of(_replica.predictor, _replica.words, **options)


def _run(sources: list[Source]) -> list[Finished]:
    assert _replica is not None
    return list(_replica.run(sources))


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool as error:
        raise CMPFError(
            "a process with a model died, perhaps for lack of memory; run the same command again with fewer "
            "--processes: it goes on"
        ) from error
