# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Connects to a Ray cluster, and chooses the number of workers and their resources."""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from cmpf.errors import CMPFError, summary

CONNECT_SECONDS = 10.0
START_SECONDS = 60.0  # maximum time to wait for the resources of a worker
LABELER_SHARE = 0.75  # fraction of the CPUs for Labelers; if none were left for readers, no job would start
READER_CPUS = 0.25


@contextmanager
def connected(address: str | None, *, cpus: int | None = None) -> Iterator[Any]:
    """Connects to a Ray cluster, or starts one; disconnects or stops it after the block.

    Args:
        address: see label_on_ray.
        cpus: number of CPUs of a new cluster; None = all.
    Yields:
        The package ray.
    Raises:
        CMPFError: see label_on_ray.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # no messages on stderr besides errors
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise CMPFError('--ray needs Ray: pip install "cmpf[ray]"') from error
    own = not ray.is_initialized()
    try:
        if own:
            _check_reachable(address)
            with _silence_stderr():
                ray.init(
                    address=address,
                    num_cpus=cpus,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    include_dashboard=False,
                )
    except (OSError, RuntimeError, ValueError) as error:  # ConnectionError is an OSError
        raise CMPFError(
            f"no Ray cluster at {address or 'this machine'} ({summary(error, 200)}); check the address, "
            "and that it was started with `ray start --head`"
        ) from error
    try:
        yield ray
    finally:
        if own:
            ray.shutdown()


def _check_reachable(address: str | None) -> None:
    """Tests a connection to HOST:PORT, because Ray itself would wait for minutes.

    Raises:
        OSError: the connection fails.
    """
    match = re.fullmatch(r"(?:ray://)?(?P<host>[^/]+):(?P<port>\d+)", address or "")
    if match:
        socket.create_connection((match["host"].strip("[]"), int(match["port"])), CONNECT_SECONDS).close()


@contextmanager
def _silence_stderr() -> Iterator[None]:
    """Redirects stderr to /dev/null, because Ray's C++ code logs its own log level there."""
    sys.stderr.flush()
    before, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(null)


@dataclass(frozen=True)
class WorkerResources:
    """Maximum number of workers, and the CPUs and GPUs (or fractions of one) of each."""

    workers: int
    cpus: float
    gpus: float


def worker_resources(cluster: Mapping[str, float], workers: int | None, *, on_gpu: bool) -> WorkerResources:
    """Divides the resources of a cluster among workers.

    Args:
        cluster: number of "CPU" and "GPU".
        workers: see label_on_ray.
        on_gpu: whether workers use GPUs if there are any; if there are more workers than GPUs, they share them.
    """
    cpus, gpus = cluster.get("CPU", 0.0), cluster.get("GPU", 0.0) if on_gpu else 0.0
    count = workers or max(1, int(gpus) or int(cpus))
    share = min(1.0, LABELER_SHARE * cpus / count)
    return WorkerResources(count, int(100 * share) / 100, min(1.0, int(100 * gpus / count) / 100))


def wait_for_resources(ray: Any, resources: WorkerResources) -> None:
    """Waits until the resources of a worker and a reader are free.

    Raises:
        CMPFError: they are not free within START_SECONDS; the message says what is needed and what is free.
    """
    from ray.util.placement_group import placement_group, remove_placement_group

    needed = [{"CPU": resources.cpus + READER_CPUS, **({"GPU": resources.gpus} if resources.gpus else {})}]
    group = placement_group(needed)
    try:
        if not group.wait(START_SECONDS):
            free = {name: round(n, 2) for name, n in _processors(ray.available_resources()).items()}
            raise CMPFError(
                f"no worker could start within {START_SECONDS:.0f} seconds: one needs {needed[0]}, and free are "
                f"{free or 'none'} of {_processors(ray.cluster_resources())}; wait for other jobs, or give fewer "
                "--workers"
            )
    finally:
        remove_placement_group(group)


def _processors(resources: Mapping[str, float]) -> dict[str, float]:
    """The numbers of CPUs and GPUs among Ray's resources."""
    return {name: resources[name] for name in ("CPU", "GPU") if name in resources}
