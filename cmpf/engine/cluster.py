# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Which place a process has among all of them: told by SLURM or torchrun, and by our own launcher as by torchrun."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import torch.distributed as dist

from cmpf.errors import ConfigError

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
