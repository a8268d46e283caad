# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Several models at work, each in a process of its own: one per GPU, or some that share the cores."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from cmpf.common.cpu import available_memory, usable_cores
from cmpf.common.processes import process_pool
from cmpf.errors import CMPFError
from cmpf.labelling.ahead import Taken
from cmpf.labelling.configuration import configuration_of
from cmpf.labelling.pipeline import Finished, Replica, Work
from cmpf.labelling.sources import Source

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor

CHUNK = 16  # images that a process gets at a time
LEAST_IMAGES = 8  # that a further process is started for
LEAST_MEMORY = 2**30  # bytes that a process computes with
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

    def __init__(self, replica: Replica) -> None:
        self.replica = replica

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
        lots = _lots(sources, self.count)
        working: set[Future[list[Finished]]] = set()
        with _told():
            while True:
                while len(working) < 2 * self.count and not stopped() and (lot := next(lots, None)):
                    working.add(self.pool.submit(_run, lot))
                if not working:
                    return
                done, working = wait(working, return_when=FIRST_COMPLETED)
                for future in done:
                    yield from future.result()
                if stopped():
                    working = {future for future in working if not future.cancel()}


def _lots(sources: Sequence[Source], count: int) -> Iterator[list[Source]]:
    """Up to CHUNK images at a time, and fewer toward the end: no process shall have much while others have nothing."""
    first = 0
    while first < len(sources):
        size = max(1, min(CHUNK, (len(sources) - first) // (4 * count)))
        yield list(sources[first : first + size])
        first += size


@contextmanager
def engine(
    work: Work, devices: Sequence[str | None], *, images: int, processes: int | None = None
) -> Iterator[Engine]:
    """One model for each device, or several that share the cores; a single one works in this process.

    Args:
        devices: as torch names them, None = the usual one.
        images: how many there are. processes: on one device; None = on the CPU as many as work best.
    """
    # Before anything has computed on several threads: a process that has cannot be forked (see docs/trust.md).
    fork = sys.platform == "linux" and "torch" not in sys.modules
    if len(devices) == 1 and (fork or processes in (None, 1)):
        replica = _loaded(work, devices[0] if processes in (None, 1) else devices[0] or "cpu")
        count = processes or (usual_processes(replica, images) if fork else 1)
        if count == 1:
            yield Here(replica)
        else:
            with _forked(replica, count) as pool:
                yield Elsewhere(pool, count)
        return
    several = list(devices) if len(devices) > 1 else [devices[0] or "cpu"] * (processes or 1)
    context = multiprocessing.get_context("spawn")  # CUDA does not outlive a fork
    waiting, taken = context.SimpleQueue(), Taken(context)
    for device in several:
        waiting.put(device)
    with process_pool(
        len(several), context=context, initializer=_load, initargs=(work, waiting, taken, len(several))
    ) as pool:
        yield Elsewhere(pool, len(several))


def usual_processes(replica: Replica, images: int) -> int:
    """How many processes work best: on the CPU one a core, as far as there are images and memory for them.

    A model on one thread takes less of all cores together than one on all of them. Weights are shared.
    """
    model = replica.predictor.model
    if model.device.type != "cpu":
        return 1
    weights: int = sum(tensor.nbytes for tensor in model.state_dict().values())
    each = max(LEAST_MEMORY, 2 * weights)  # of what is computed, which grows with the model as the weights do
    return max(1, min(usable_cores(), images // LEAST_IMAGES, available_memory() // (2 * each)))


def _loaded(work: Work, device: str | None) -> Replica:
    """A model that was loaded on one thread; then torch has as many as it would have had."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    replica = Replica(work, device)
    wanted = replica.predictor.cfg.NUM_THREADS if replica.predictor.cfg is not None else 0
    torch.set_num_threads(wanted or threads)
    return replica


@contextmanager
def _forked(replica: Replica, count: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that have the loaded model, and its memory, from this one."""
    global _replica
    context = multiprocessing.get_context("fork")
    _replica = replica
    with process_pool(count, context=context, initializer=_share, initargs=(Taken(context), count)) as pool:
        yield pool
    _replica = None


def _load(work: Work, devices: Any, taken: Taken, count: int) -> None:
    """The first thing that a process does that has no model: it takes a device of its own."""
    global _replica
    _replica = Replica(work, devices.get())
    _share(taken, count)


def _share(taken: Taken, count: int) -> None:
    """This process is one of several that share the cores and the memory."""
    assert _replica is not None
    _replica.taken = taken
    if _replica.predictor.model.device.type == "cpu":
        import torch

        torch.set_num_threads(max(1, usable_cores() // count))
        _replica.threads = max(1, _replica.work.workers // count)


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
