# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Runs a function in several processes: PyTorch's elastic launcher starts and watches them, as torchrun does."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing_of_torch
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from cmpf.common.cpu import usable_cores
from cmpf.common.distributed import TIMEOUT, Place, place_from_environment
from cmpf.common.files import write_text
from cmpf.common.processes import when_parent_ends
from cmpf.engine.interrupts import SIGNALS
from cmpf.errors import CMPFError, ConfigError, TrainingError

GRACE = 15  # seconds that processes have to end by themselves after one has died
# Seconds in which a process that lost its connection waits for the one that died to be noticed first.
SETTLE = 2.0
QUIET = ("torch.distributed.elastic", "torch.distributed.launcher", "torch.multiprocessing")


@dataclass(frozen=True)
class Failure:
    """The error that ended a process.

    message: its text. ours: of a kind that a user can cause. details: traceback, "" for our own. at: time.time().
    """

    rank: int
    message: str
    ours: bool
    details: str
    at: float


def launch(
    function: Callable[..., int],
    *,
    num_processes: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
    args: tuple[Any, ...] = (),
    device: str = "cpu",
) -> int:
    """Calls a function in every process of a group, and waits for all of them.

    In an environment made by torchrun or srun this process is one of the group already. Otherwise, where one process
    on one machine is wanted, the function is simply called, without a group; else processes are started as torchrun
    starts them, and find their places in the same environment.

    Args:
        function: importable by its name; returns an exit code.
        num_processes: on this machine.
        num_machines, machine_rank: machines of the group, and this one's number.
        dist_url: tcp://HOST:PORT of machine 0, the same on all machines; "auto" on one machine.
        args: of the function; can be pickled.
        device: "cuda" = one GPU per process and NCCL, "cpu" = gloo.
    Returns:
        The largest exit code.
    Raises:
        ConfigError: numbers that do not fit together.
        TrainingError: a process ended with an error, or was killed; the others have been ended.
    """
    place = place_from_environment()
    if place is not None:
        return _in_group(function, args, place, device)
    _check(num_processes, num_machines, machine_rank, dist_url)
    if num_processes * num_machines == 1:
        return function(*args)
    with tempfile.TemporaryDirectory(prefix="cmpf_") as folder:
        config = _launch_config(num_processes, num_machines, machine_rank, dist_url, folder)
        return _run(config, function, args, device, Path(folder))


def _check(num_processes: int, num_machines: int, machine_rank: int, dist_url: str) -> None:
    if num_processes < 1 or num_machines < 1:
        raise ConfigError(
            f"{num_processes} processes on {num_machines} machines: at least 1 of each is needed"
        )
    if not 0 <= machine_rank < num_machines:
        raise ConfigError(
            f"--machine-rank {machine_rank} of --num-machines {num_machines}: ranks are 0..{num_machines - 1}"
        )
    if num_machines > 1 and not dist_url.startswith("tcp://"):
        raise ConfigError(
            f"--dist-url {dist_url}: several machines need tcp://HOST:PORT of machine 0, the same on all of them"
        )


def _launch_config(
    num_processes: int, num_machines: int, machine_rank: int, dist_url: str, folder: str
) -> LaunchConfig:
    """One machine meets itself on its loopback address; several meet at machine 0, in the order of their ranks."""
    alone = num_machines == 1 and dist_url == "auto"
    return LaunchConfig(
        min_nodes=num_machines,
        max_nodes=num_machines,
        nproc_per_node=num_processes,
        run_id=uuid.uuid4().hex if alone else "cmpf",
        rdzv_backend="c10d" if alone else "static",
        rdzv_endpoint="127.0.0.1:0" if alone else dist_url.removeprefix("tcp://"),
        rdzv_configs={"rank": machine_rank, "timeout": int(TIMEOUT.total_seconds())},
        local_addr="127.0.0.1" if alone else None,
        max_restarts=0,
        shutdown_timeout=GRACE,
        signals_to_handle="SIGHUP,SIGQUIT",  # those that a training answers by saving are passed on below
        logs_specs=DefaultLogsSpecs(log_dir=folder),
    )


def _run(
    config: LaunchConfig, function: Callable[..., int], args: tuple[Any, ...], device: str, folder: Path
) -> int:
    """The largest exit code of the processes of this machine."""
    with _quiet(), _signals_passed_on() as signals:
        try:
            codes: dict[int, int] = elastic_launch(config, _worker)(function, args, device, str(folder))
        except ChildFailedError as error:
            failure = _first_failure(error, folder)
            if failure is None and signals:
                raise KeyboardInterrupt from None  # stopped before there was anything to save, or twice
            raise _as_error(error, failure, others=config.nproc_per_node * config.max_nodes > 1) from None
    return max(codes.values())


@contextmanager
def _quiet() -> Iterator[None]:
    """The launcher's own reports of a failure, tracebacks of all processes, are replaced by one message."""
    loggers = [logging.getLogger(name) for name in QUIET]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


@contextmanager
def _signals_passed_on() -> Iterator[list[int]]:
    """Requests to stop go to the processes, which save and end; the list holds those that came.

    The processes have sessions of their own, so that Ctrl-C reaches them through here, and only once.
    """
    came: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        came.append(number)
        for process in multiprocessing.active_children():
            if process.pid is not None:
                os.kill(process.pid, number)

    before = {number: signal.signal(number, pass_on) for number in SIGNALS}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _first_failure(error: ChildFailedError, folder: Path) -> Failure | None:
    """The error that ended the others; None where a process died without one."""
    rank, _ = error.get_first_failure()
    if not (folder / f"{rank}.json").is_file():
        return None
    failures = [Failure(**json.loads(path.read_text(encoding="utf-8"))) for path in folder.glob("*.json")]
    # One of our own errors says more than the broken connections after it.
    return min(failures, key=lambda failure: (not failure.ours, failure.at))


def _as_error(error: ChildFailedError, failure: Failure | None, *, others: bool) -> TrainingError:
    ended = "; the other processes were ended" if others else ""
    if failure is None:
        rank, process = error.get_first_failure()
        return TrainingError(f"process {rank}: it {_died(process.exitcode)}{ended}")
    if failure.details:
        print(failure.details, file=sys.stderr)
    return TrainingError(f"process {failure.rank}: {failure.message}{ended}")


def _died(exitcode: int) -> str:
    if exitcode < 0:
        name = signal.Signals(-exitcode).name
        return f"was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    return f"ended with exit code {exitcode}"


def _worker(function: Callable[..., int], args: tuple[Any, ...], device: str, folder: str) -> int:
    """A started process: the function, and a note in `folder` if it fails."""
    if hasattr(os, "setsid"):
        os.setsid()
    # Linux sends the death signal that PyTorch asks for once for each thread of the parent, and a second request to
    # stop ends a process at once. So it is switched off, and a thread asks once.
    multiprocessing_of_torch._prctl_pr_set_pdeathsig(0)  # type: ignore[attr-defined]
    when_parent_ends(lambda: os.kill(os.getpid(), signal.SIGTERM))
    place = place_from_environment()
    if place is None:
        raise RuntimeError("the launcher has told this process no place")
    try:
        code = _in_group(function, args, place, device)
    except Exception as error:
        failure = _failure(place.rank, error)
        write_text(Path(folder) / f"{place.rank}.json", json.dumps(asdict(failure)))
        if not failure.ours:
            time.sleep(SETTLE)
        raise
    launcher = multiprocessing.parent_process()
    if launcher is not None and not launcher.is_alive():
        # One that was killed never takes the code, and PyTorch would wait for that.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _failure(rank: int, error: Exception) -> Failure:
    """The error that is being handled, as the launcher tells it."""
    ours = isinstance(error, CMPFError)
    return Failure(
        rank=rank,
        message=(str(error) or "error") if ours else f"{type(error).__name__}: {error}",
        ours=ours,
        details="" if ours else traceback.format_exc(),
        at=time.time(),
    )


def _in_group(function: Callable[..., int], args: tuple[Any, ...], place: Place, device: str) -> int:
    """Calls the function as a member of the process group."""
    os.environ.update(LOCAL_RANK=str(place.local_rank), LOCAL_WORLD_SIZE=str(place.local_world_size))
    backend = "gloo"
    if device == "cuda":
        torch.cuda.set_device(place.local_rank)
        backend = "cpu:gloo,cuda:nccl"
    elif place.local_world_size > 1:
        torch.set_num_threads(max(1, usable_cores() // place.local_world_size))
    try:
        place.join(backend)
    except (RuntimeError, ValueError) as error:
        raise TrainingError(
            f"the {place.world_size} processes did not find each other at {place.url}: {error}"
        ) from error
    code = function(*args)
    dist.destroy_process_group()
    return code
