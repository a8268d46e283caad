# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Runs a job on one or several replicas of the model: one per GPU, or several CPU processes that share the cores."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cmpf.common.cpu import available_memory, usable_cores
from cmpf.common.processes import process_pool
from cmpf.errors import CMPFError
from cmpf.labelling.pipeline import FinishedImage, Job, Replica
from cmpf.labelling.prefetch import BudgetUsage
from cmpf.labelling.sources import Source

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor

CHUNK_SIZE = 16  # images sent to a process at a time
MIN_IMAGES_PER_PROCESS = 8
MIN_MEMORY_PER_PROCESS = 2**30  # bytes, for activations
_replica: Replica | CMPFError | None = None  # of this worker process, or why it could not be loaded


class ReplicaPool:
    """One replica in each process of a pool; used like a single Replica."""

    def __init__(self, pool: ProcessPoolExecutor, num_processes: int) -> None:
        self.pool, self.num_processes = pool, num_processes

    def configuration(self, options: dict[str, Any]) -> dict[str, Any]:
        """See Replica.configuration; computed by one of the processes."""
        with _translate_broken_pool():
            return self.pool.submit(_worker_configuration, options).result()

    def run(self, sources: Sequence[Source], should_stop: Callable[[], bool]) -> Iterator[FinishedImage]:
        """See Replica.run; at most two chunks per process are queued at a time."""
        chunks = _chunks(sources, self.num_processes)
        pending: set[Future[list[FinishedImage]]] = set()
        with _translate_broken_pool():
            while True:
                while (
                    len(pending) < 2 * self.num_processes
                    and not should_stop()
                    and (chunk := next(chunks, None))
                ):
                    pending.add(self.pool.submit(_run_chunk, chunk))
                if not pending:
                    return
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    yield from future.result()
                if should_stop():
                    pending = {future for future in pending if not future.cancel()}


def _chunks(sources: Sequence[Source], num_processes: int) -> Iterator[list[Source]]:
    """Up to CHUNK_SIZE images at a time; smaller toward the end, so that all processes finish together."""
    start = 0
    while start < len(sources):
        size = max(1, min(CHUNK_SIZE, (len(sources) - start) // (4 * num_processes)))
        yield list(sources[start : start + size])
        start += size


@contextmanager
def load_replicas(
    job: Job, devices: Sequence[str | None], *, num_images: int, processes: int | None = None
) -> Iterator[Replica | ReplicaPool]:
    """Loads one replica per device, or several on the CPU; a single one is loaded in this process.

    Args:
        devices: PyTorch device names, None = the default device.
        num_images: number of images to segment.
        processes: replicas on a single device; None = default_num_processes on the CPU, else 1.
    """
    # A process that has computed on several threads cannot be forked (see docs/trust.md).
    can_fork = sys.platform == "linux" and "torch" not in sys.modules
    if len(devices) == 1 and (can_fork or processes in (None, 1)):
        replica = _load_replica(job, devices[0] if processes in (None, 1) else devices[0] or "cpu")
        num_processes = processes or (default_num_processes(replica, num_images) if can_fork else 1)
        if num_processes == 1:
            yield replica
        else:
            with _forked_pool(replica, num_processes) as pool:
                yield ReplicaPool(pool, num_processes)
        return
    replica_devices = list(devices) if len(devices) > 1 else [devices[0] or "cpu"] * (processes or 1)
    num_processes = len(replica_devices)
    context = multiprocessing.get_context("spawn")  # CUDA cannot be used in a forked process
    queue, usage = context.SimpleQueue(), BudgetUsage(context)
    for device in replica_devices:
        queue.put(device)
    with process_pool(
        num_processes,
        context=context,
        initializer=_init_spawned_worker,
        initargs=(job, queue, usage, num_processes),
    ) as pool:
        yield ReplicaPool(pool, num_processes)


def default_num_processes(replica: Replica, num_images: int) -> int:
    """Number of replicas: on the CPU one per core, as far as the images and the memory suffice; else 1.

    One thread per replica makes better use of the cores than one replica on all of them. Forked replicas share their
    weights.
    """
    model = replica.predictor.model
    if model.device.type != "cpu":
        return 1
    weights: int = sum(tensor.nbytes for tensor in model.state_dict().values())
    memory = max(MIN_MEMORY_PER_PROCESS, 2 * weights)  # activations grow with the model as the weights do
    return max(
        1, min(usable_cores(), num_images // MIN_IMAGES_PER_PROCESS, available_memory() // (2 * memory))
    )


def _load_replica(job: Job, device: str | None) -> Replica:
    """Loads the model on one thread, so that the process can still be forked; then restores the thread count."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    replica = Replica(job, device)
    configured = replica.predictor.cfg.NUM_THREADS if replica.predictor.cfg is not None else 0
    torch.set_num_threads(configured or threads)
    return replica


@contextmanager
def _forked_pool(replica: Replica, num_processes: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of forks of this process, which share the memory of the loaded model."""
    global _replica
    context = multiprocessing.get_context("fork")
    _replica = replica
    with process_pool(
        num_processes,
        context=context,
        initializer=_share_resources,
        initargs=(BudgetUsage(context), num_processes),
    ) as pool:
        yield pool
    _replica = None


def _init_spawned_worker(job: Job, devices: Any, usage: BudgetUsage, num_processes: int) -> None:
    """Loads a replica on the next device of the queue; an error of the user is raised by the first call instead."""
    global _replica
    try:
        _replica = Replica(job, devices.get())
        _share_resources(usage, num_processes)
    except CMPFError as error:
        _replica = error


def _share_resources(usage: BudgetUsage, num_processes: int) -> None:
    """Gives this worker its share of the cores, and the common budget of pixels in flight."""
    replica = _loaded_replica()
    replica.usage = usage
    if replica.predictor.model.device.type == "cpu":
        import torch

        torch.set_num_threads(max(1, usable_cores() // num_processes))
        replica.threads = max(1, replica.job.workers // num_processes)


def _loaded_replica() -> Replica:
    if isinstance(_replica, CMPFError):
        raise _replica
    assert _replica is not None
    return _replica


def _worker_configuration(options: dict[str, Any]) -> dict[str, Any]:
    return _loaded_replica().configuration(options)


def _run_chunk(sources: list[Source]) -> list[FinishedImage]:
    return list(_loaded_replica().run(sources))


@contextmanager
def _translate_broken_pool() -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool as error:
        raise CMPFError(
            "a model process died, possibly out of memory; run the same command again with fewer --processes to resume"
        ) from error
