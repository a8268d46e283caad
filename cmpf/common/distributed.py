# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Collective operations of distributed training, and the process's rank from torchrun or SLURM.

In a single process all collectives are no-ops; with several, all processes must call them in the same order. Objects
and flags use gloo on the CPU: it raises an error as soon as a process dies, and does not stall the GPU.
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
    """Number of processes on all machines."""
    return dist.get_world_size() if _ready() else 1


def rank() -> int:
    """Rank of this process, from 0."""
    return dist.get_rank() if _ready() else 0


def local_world_size() -> int:
    """Number of processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this is rank 0, the process that writes files and logs."""
    return rank() == 0


def barrier() -> None:
    """Waits until all processes reach this point."""
    any_process(False)


@contextmanager
def main_first() -> Iterator[None]:
    """Runs the block in one process per machine before the others, so that it downloads and caches files once."""
    first = int(os.environ.get("LOCAL_RANK", "0")) == 0
    if not first:
        barrier()
    yield
    if first:
        barrier()


def any_process(flag: bool) -> bool:
    """Whether the flag is True in any process."""
    if not is_parallel():
        return flag
    number = torch.tensor(float(flag))
    dist.all_reduce(number, op=dist.ReduceOp.MAX)
    return bool(number.item())


def all_reduce_mean(values: Tensor) -> Tensor:
    """The mean over processes, without gradient."""
    if not is_parallel():
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total / world_size()


def gather(value: T) -> list[T]:
    """Returns the values of all processes, by rank, to every process; they must be picklable."""
    if not is_parallel():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def from_main(value: T) -> T:
    """Returns rank 0's value to every process; it must be picklable."""
    if not is_parallel():
        return value
    box: list[Any] = [value if is_main() else None]
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    received: T = box[0]
    return received


def on_main(function: Callable[[], T]) -> T:
    """Calls a function in the main process and returns its result to every process.

    Raises:
        TrainingError: the function raised it; raised in every process.
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
    """Raises an error in every process if one of them has an error, so that none waits for a failed process.

    Args:
        error: this process's error; None = it has none.
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


TIMEOUT = timedelta(minutes=30)  # of collectives; one rank may evaluate for long while the others wait
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
FIRST_PORT, PORTS = 20000, 20000  # ports of SLURM jobs, chosen by job id


@dataclass(frozen=True)
class DistributedProcess:
    """The rank of a process in a process group, and on its machine.

    Attributes:
        rank: rank in the group.
        local_rank: rank on this machine.
        world_size: number of processes in the group.
        local_world_size: number of processes on this machine.
        url: rendezvous address, tcp://HOST:PORT or env://.
    """

    rank: int
    local_rank: int
    world_size: int
    local_world_size: int
    url: str

    def join(self, backend: str) -> None:
        """Joins the default process group; waits for the other processes."""
        dist.init_process_group(
            backend, init_method=self.url, rank=self.rank, world_size=self.world_size, timeout=TIMEOUT
        )


def process_from_environment(environment: Mapping[str, str] = os.environ) -> DistributedProcess | None:
    """This process as torchrun, or `srun` with several tasks, started it; None if neither did.

    Raises:
        ConfigError: environment variables are missing or invalid.
    """
    try:
        if all(name in environment for name in TORCHRUN):
            return _torchrun(environment)
        # SLURM sets the job's variables in batch scripts too, but those of a step only below srun.
        if int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
            return _slurm(environment)
    except (KeyError, ValueError) as issue:
        raise ConfigError(
            f"the environment of torchrun or SLURM is not complete: {issue}. Start the program by torchrun or "
            "srun, or unset these variables"
        ) from issue
    return None


def _torchrun(environment: Mapping[str, str]) -> DistributedProcess:
    return DistributedProcess(
        rank=int(environment["RANK"]),
        local_rank=int(environment["LOCAL_RANK"]),
        world_size=int(environment["WORLD_SIZE"]),
        local_world_size=int(environment.get("LOCAL_WORLD_SIZE", "1")),
        url="env://",  # PyTorch decides whether rank 0 or torchrun hosts the store
    )


def _slurm(environment: Mapping[str, str]) -> DistributedProcess:
    tasks, nodes = int(environment["SLURM_STEP_NUM_TASKS"]), int(environment["SLURM_STEP_NUM_NODES"])
    host = environment.get("MASTER_ADDR") or first_host(environment["SLURM_STEP_NODELIST"])
    port = environment.get("MASTER_PORT") or FIRST_PORT + int(environment["SLURM_JOB_ID"]) % PORTS
    return DistributedProcess(
        rank=int(environment["SLURM_PROCID"]),
        local_rank=int(environment["SLURM_LOCALID"]),
        world_size=tasks,
        local_world_size=-(-tasks // nodes),
        url=f"tcp://{host}:{port}",
    )


def first_host(nodes: str) -> str:
    """The first host of a SLURM node list: `gpu[07-09,12],login1` -> `gpu07`."""
    match = re.match(r"([^,\[]+)(?:\[([^\],-]+)[^\]]*\])?([^,\[]*)", nodes)
    if match is None:
        raise ValueError(f"SLURM_STEP_NODELIST {nodes!r} is no list of hosts")
    name, number, rest = match.groups()
    return name + (number or "") + (rest if number else "")
