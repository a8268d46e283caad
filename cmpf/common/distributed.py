# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Several training processes as one: who this process is, and what all of them agree on.

Every function works in a single process too, where it does nothing. With several, all must call it, in the same
order. Objects and flags travel over gloo on the CPU, whatever the device: a wait there ends with an error as soon
as a process dies, and it does not stall the GPU.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from cmpf.errors import TrainingError

T = TypeVar("T")


def is_parallel() -> bool:
    """Whether there is more than one process."""
    return world_size() > 1


def world_size() -> int:
    """Number of processes, on all machines together."""
    return dist.get_world_size() if _ready() else 1


def rank() -> int:
    """Number of this process among all of them, from 0."""
    return dist.get_rank() if _ready() else 0


def local_world_size() -> int:
    """Number of processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this is the process that writes files and talks: rank 0."""
    return rank() == 0


def barrier() -> None:
    """Waits until all processes are here."""
    any_process(False)


@contextmanager
def main_first() -> Iterator[None]:
    """One process of each machine runs the block before the others do, so that downloads and caches are made once."""
    first = int(os.environ.get("LOCAL_RANK", "0")) == 0
    if not first:
        barrier()
    yield
    if first:
        barrier()


def any_process(flag: bool) -> bool:
    """Whether any process says yes."""
    if not is_parallel():
        return flag
    number = torch.tensor(float(flag))
    dist.all_reduce(number, op=dist.ReduceOp.MAX)
    return bool(number.item())


def all_reduce_mean(values: Tensor) -> Tensor:
    """The mean over processes, on the device of the values; without gradient."""
    if not is_parallel():
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total / world_size()


def gather(value: T) -> list[T]:
    """The values of all processes by rank, at every process; anything that can be pickled."""
    if not is_parallel():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def from_main(value: T) -> T:
    """What rank 0 holds; the others' own value does not count."""
    if not is_parallel():
        return value
    box: list[Any] = [value if is_main() else None]
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    received: T = box[0]
    return received


def on_main(function: Callable[[], T]) -> T:
    """What the function gives in the main process, at every process.

    Raises:
        TrainingError: the function raised it; in every process.
    """
    box: list[T] = []
    error = None
    try:
        if is_main():
            box.append(function())
    except TrainingError as issue:
        error = issue
    raise_together(error)
    return from_main(box)[0]


def broadcast_tensors(tensors: list[Tensor]) -> None:
    """Overwrites tensors in place with those of rank 0."""
    if not is_parallel():
        return
    for tensor in tensors:
        dist.broadcast(tensor.detach(), src=0)


def raise_together(error: TrainingError | None) -> None:
    """Raises in every process when one of them has an error, so that nobody waits for a process that gave up.

    Raises:
        TrainingError: the error of the lowest rank that has one.
    """
    if error is not None and not is_parallel():
        raise error
    if not any_process(error is not None):
        return
    messages = gather(None if error is None else str(error))
    first = next(number for number, message in enumerate(messages) if message is not None)
    raise TrainingError(f"{messages[first]} (process {first} of {world_size()})") from error


def _ready() -> bool:
    return dist.is_available() and dist.is_initialized()
