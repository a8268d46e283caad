# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""A Ray cluster: how it is reached, and what a worker takes of it."""

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
START_SECONDS = 60.0  # that a free place for a worker is waited for
LABELER_SHARE = 0.75  # of the cluster's CPUs, so that some are left to read: without, no job would ever start
READER_CPUS = 0.25


@contextmanager
def connected(address: str | None, *, cpus: int | None = None) -> Iterator[Any]:
    """The package ray, connected to a cluster; what was started or connected here ends with the block.

    Args:
        address: see label_on_ray. cpus: of a cluster that is started here; None = as many as there are.
    Raises:
        CMPFError: see label_on_ray.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would tell its makers
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # and says more on stderr than its errors
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise CMPFError('--ray needs Ray: pip install "cmpf[ray]"') from error
    own = not ray.is_initialized()
    try:
        if own:
            _check_reachable(address)
            with _quiet():
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
    """Knocks at HOST:PORT, where Ray itself would wait for minutes.

    Raises:
        OSError: nobody answers.
    """
    found = re.fullmatch(r"(?:ray://)?(?P<host>[^/]+):(?P<port>\d+)", address or "")
    if found:
        socket.create_connection((found["host"].strip("[]"), int(found["port"])), CONNECT_SECONDS).close()


@contextmanager
def _quiet() -> Iterator[None]:
    """Nothing on stderr from Ray's own code below Python, which tells there how it was told to be quiet."""
    sys.stderr.flush()
    before, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(nowhere)


@dataclass(frozen=True)
class Place:
    """How many workers there are at most, and how many CPUs and GPUs, or which part of one, each takes."""

    workers: int
    cpus: float
    gpus: float


def worker_place(resources: Mapping[str, float], workers: int | None, *, on_gpu: bool) -> Place:
    """How many workers there are and what each takes, of all that a cluster has.

    Args:
        resources: "CPU" and "GPU" -> how many.
        workers: see label_on_ray.
        on_gpu: whether they use GPUs, if there are any; several share one where there are fewer.
    """
    cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0) if on_gpu else 0.0
    count = workers or max(1, int(gpus) or int(cpus))
    share = min(1.0, LABELER_SHARE * cpus / count)
    return Place(count, int(100 * share) / 100, min(1.0, int(100 * gpus / count) / 100))


def wait_for_place(ray: Any, place: Place) -> None:
    """Waits until a worker and a reader have a place.

    Raises:
        CMPFError: they have none within START_SECONDS; says what they need and what is free.
    """
    from ray.util.placement_group import placement_group, remove_placement_group

    needed = [{"CPU": place.cpus + READER_CPUS, **({"GPU": place.gpus} if place.gpus else {})}]
    group = placement_group(needed)
    try:
        if not group.wait(START_SECONDS):
            free = {
                name: round(count, 2)
                for name, count in ray.available_resources().items()
                if name in ("CPU", "GPU")
            }
            raise CMPFError(
                f"no worker could start within {START_SECONDS:.0f} seconds: one needs {needed[0]}, and free are "
                f"{free or 'none'} of {_known(ray.cluster_resources())}; wait for other jobs, or give fewer --workers"
            )
    finally:
        remove_placement_group(group)


def _known(resources: Mapping[str, float]) -> dict[str, float]:
    return {name: resources[name] for name in ("CPU", "GPU") if name in resources}
