# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Several training processes as one: who this process is, told by SLURM or torchrun, and what all of them agree on.

Every function works in a single process too, where it does nothing. With several, all must call it, in the same
order. Objects and flags travel over gloo on the CPU, whatever the device: a wait there ends with an error as soon
as a process dies, and it does not stall the GPU.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from cmpf.errors import ConfigError, TrainingError

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


TIMEOUT = timedelta(minutes=30)  # a rank may evaluate long while the others wait for it
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
FIRST_PORT, PORTS = 20000, 20000  # ports of SLURM jobs, chosen by the job's number


@dataclass(frozen=True)
class Place:
    """A process among `world_size`, and on its own machine among `local_world_size`.

    url: where the processes meet, tcp://HOST:PORT or env://.
    """

    rank: int
    local_rank: int
    world_size: int
    local_world_size: int
    url: str

    def join(self, backend: str) -> None:
        """Becomes a member of the default process group; waits for the others."""
        dist.init_process_group(
            backend, init_method=self.url, rank=self.rank, world_size=self.world_size, timeout=TIMEOUT
        )


def place_from_environment(environment: Mapping[str, str] = os.environ) -> Place | None:
    """The place that torchrun or `srun` with several tasks gave this process; None where neither started it.

    Raises:
        ConfigError: numbers that are none.
    """
    try:
        if all(name in environment for name in TORCHRUN):
            return _torchrun(environment)
        # Also a batch script has SLURM's numbers of its job; those of a step are there below srun only.
        if int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
            return _slurm(environment)
    except (KeyError, ValueError) as issue:
        raise ConfigError(
            f"the environment of torchrun or SLURM is not complete: {issue}. Start the program by torchrun or "
            "srun, or unset these variables"
        ) from issue
    return None


def _torchrun(environment: Mapping[str, str]) -> Place:
    return Place(
        rank=int(environment["RANK"]),
        local_rank=int(environment["LOCAL_RANK"]),
        world_size=int(environment["WORLD_SIZE"]),
        local_world_size=int(environment.get("LOCAL_WORLD_SIZE", "1")),
        url="env://",  # PyTorch knows best who keeps the meeting point: rank 0, or torchrun itself
    )


def _slurm(environment: Mapping[str, str]) -> Place:
    tasks, nodes = int(environment["SLURM_STEP_NUM_TASKS"]), int(environment["SLURM_STEP_NUM_NODES"])
    host = environment.get("MASTER_ADDR") or first_host(environment["SLURM_STEP_NODELIST"])
    port = environment.get("MASTER_PORT") or FIRST_PORT + int(environment["SLURM_JOB_ID"]) % PORTS
    return Place(
        rank=int(environment["SLURM_PROCID"]),
        local_rank=int(environment["SLURM_LOCALID"]),
        world_size=tasks,
        local_world_size=-(-tasks // nodes),
        url=f"tcp://{host}:{port}",
    )


def first_host(nodes: str) -> str:
    """The first host of a list in SLURM's form: `gpu[07-09,12],login1` -> `gpu07`."""
    match = re.match(r"([^,\[]+)(?:\[([^\],-]+)[^\]]*\])?([^,\[]*)", nodes)
    if match is None:
        raise ValueError(f"SLURM_STEP_NODELIST {nodes!r} is no list of hosts")
    name, number, rest = match.groups()
    return name + (number or "") + (rest if number else "")
