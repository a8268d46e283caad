# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Runs a function in several processes, started and monitored by PyTorch's elastic launcher as torchrun does."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import re
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
from cmpf.common.distributed import TIMEOUT, DistributedProcess, process_from_environment
from cmpf.common.files import write_text
from cmpf.common.processes import on_parent_exit
from cmpf.engine.interrupts import SIGNALS
from cmpf.errors import CMPFError, ConfigError, TrainingError

GRACE_PERIOD = 15  # seconds for the other processes to end by themselves after one has failed
# Seconds for which a process that lost its connection waits, so that the failure which caused this is reported first.
REPORT_DELAY = 2.0
SILENCED_LOGGERS = ("torch.distributed.elastic", "torch.distributed.launcher", "torch.multiprocessing")


@dataclass(frozen=True)
class Failure:
    """The error that ended a process.

    Attributes:
        rank: the process's rank.
        message: the error's text.
        user_error: whether it is a CMPFError, which a user can cause and fix.
        traceback: "" for a user error.
        time: seconds since the epoch.
    """

    rank: int
    message: str
    user_error: bool
    traceback: str
    time: float


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
    """Calls a function in every process of a process group and waits for all of them.

    If torchrun or srun started this process, it joins their group. Otherwise it starts `num_processes` processes as
    torchrun would, or calls the function directly, without a group, if one process is requested in total.

    Args:
        function: importable by name; returns an exit code.
        num_processes: number of processes on this machine.
        num_machines: number of machines.
        machine_rank: this machine's rank, 0 .. num_machines - 1.
        dist_url: tcp://HOST:PORT of machine 0, the same on all machines; "auto" on one machine.
        args: arguments of the function; must be picklable.
        device: "cuda" = one GPU per process and NCCL, "cpu" = gloo.
    Returns:
        The largest exit code.
    Raises:
        ConfigError: the numbers or the URL are inconsistent.
        TrainingError: a process failed or was killed; the others have been ended.
    """
    process = process_from_environment()
    if process is not None:
        return _in_group(function, args, process, device)
    _check(num_machines, machine_rank, dist_url)
    if num_processes * num_machines == 1:
        return function(*args)
    with tempfile.TemporaryDirectory(prefix="cmpf_") as folder:
        config = _launch_config(num_processes, num_machines, machine_rank, dist_url, folder)
        return _run(config, function, args, device, Path(folder))


def _check(num_machines: int, machine_rank: int, dist_url: str) -> None:
    if not 0 <= machine_rank < num_machines:
        raise ConfigError(
            f"--machine-rank {machine_rank} of --num-machines {num_machines}: ranks are 0..{num_machines - 1}"
        )
    if (num_machines > 1 or dist_url != "auto") and not re.fullmatch(r"tcp://.+:\d+", dist_url):
        raise ConfigError(
            f"--dist-url {dist_url}: several machines need tcp://HOST:PORT of machine 0, the same on all of them"
        )


def _launch_config(
    num_processes: int, num_machines: int, machine_rank: int, dist_url: str, folder: str
) -> LaunchConfig:
    """Rendezvous on the loopback address for one machine, at machine 0 with static ranks for several."""
    local = num_machines == 1 and dist_url == "auto"
    return LaunchConfig(
        min_nodes=num_machines,
        max_nodes=num_machines,
        nproc_per_node=num_processes,
        run_id=uuid.uuid4().hex if local else "cmpf",
        rdzv_backend="c10d" if local else "static",
        rdzv_endpoint="127.0.0.1:0" if local else dist_url.removeprefix("tcp://"),
        rdzv_configs={"rank": machine_rank, "timeout": int(TIMEOUT.total_seconds())},
        local_addr="127.0.0.1" if local else None,
        max_restarts=0,
        shutdown_timeout=GRACE_PERIOD,
        signals_to_handle="SIGHUP,SIGQUIT",  # _forward_signals handles the others
        logs_specs=DefaultLogsSpecs(log_dir=folder),
    )


def _run(
    config: LaunchConfig, function: Callable[..., int], args: tuple[Any, ...], device: str, folder: Path
) -> int:
    """Runs this machine's processes; returns the largest exit code."""
    with _silence_launcher(), _forward_signals() as signals:
        try:
            codes: dict[int, int] = elastic_launch(config, _worker)(function, args, device, str(folder))
        except ChildFailedError as error:
            failure = _first_failure(error, folder)
            if failure is None and signals:
                raise KeyboardInterrupt from None  # a signal before the first iteration, or a second signal
            raise _as_error(error, failure, others=config.nproc_per_node * config.max_nodes > 1) from None
    return max(codes.values())


@contextmanager
def _silence_launcher() -> Iterator[None]:
    """Silences the launcher's failure reports (tracebacks of all processes); one message replaces them."""
    loggers = [logging.getLogger(name) for name in SILENCED_LOGGERS]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


@contextmanager
def _forward_signals() -> Iterator[list[int]]:
    """Forwards signals that request a stop to the processes, which save and end; yields the list of those received.

    Each process has its own session, so Ctrl-C reaches it only through this handler, once.
    """
    received: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for process in multiprocessing.active_children():
            if process.pid is not None:
                os.kill(process.pid, number)

    before = {number: signal.signal(number, forward) for number in SIGNALS}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _first_failure(error: ChildFailedError, folder: Path) -> Failure | None:
    """The failure that ended the other processes too; None if a process died without writing one."""
    rank, _ = error.get_first_failure()
    if not (folder / f"{rank}.json").is_file():
        return None
    failures = [Failure(**json.loads(path.read_text(encoding="utf-8"))) for path in folder.glob("*.json")]
    # A CMPFError says more than the connection errors that follow it.
    return min(failures, key=lambda failure: (not failure.user_error, failure.time))


def _as_error(error: ChildFailedError, failure: Failure | None, *, others: bool) -> TrainingError:
    ended = "; the other processes were ended" if others else ""
    if failure is None:
        rank, process = error.get_first_failure()
        return TrainingError(f"process {rank}: it {_died(process.exitcode)}{ended}")
    if failure.traceback:
        print(failure.traceback, file=sys.stderr)
    return TrainingError(f"process {failure.rank}: {failure.message}{ended}")


def _died(exitcode: int) -> str:
    if exitcode < 0:
        name = signal.Signals(-exitcode).name
        return f"was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    return f"ended with exit code {exitcode}"


def _worker(function: Callable[..., int], args: tuple[Any, ...], device: str, folder: str) -> int:
    """Runs the function in a started process; writes FOLDER/RANK.json if it fails."""
    if hasattr(os, "setsid"):
        os.setsid()
    # PyTorch asks Linux for a signal at the parent's death, which arrives once per thread of the parent, and a second
    # signal ends a process immediately. It is switched off; a thread of our own sends a single one.
    multiprocessing_of_torch._prctl_pr_set_pdeathsig(0)  # type: ignore[attr-defined]
    on_parent_exit(lambda: os.kill(os.getpid(), signal.SIGTERM))
    process = process_from_environment()
    if process is None:
        raise RuntimeError("the launcher did not set this process's rank")
    try:
        code = _in_group(function, args, process, device)
    except Exception as error:
        failure = _failure(process.rank, error)
        write_text(Path(folder) / f"{process.rank}.json", json.dumps(asdict(failure)))
        if not failure.user_error:
            time.sleep(REPORT_DELAY)
        raise
    launcher = multiprocessing.parent_process()
    if launcher is not None and not launcher.is_alive():
        # PyTorch would wait forever for a killed launcher to receive the exit code.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _failure(rank: int, error: Exception) -> Failure:
    """Describes the exception that is being handled."""
    user_error = isinstance(error, CMPFError)
    return Failure(
        rank=rank,
        message=(str(error) or "error") if user_error else f"{type(error).__name__}: {error}",
        user_error=user_error,
        traceback="" if user_error else traceback.format_exc(),
        time=time.time(),
    )


def _in_group(
    function: Callable[..., int], args: tuple[Any, ...], process: DistributedProcess, device: str
) -> int:
    """Calls the function as a member of the process group."""
    os.environ.update(LOCAL_RANK=str(process.local_rank), LOCAL_WORLD_SIZE=str(process.local_world_size))
    backend = "gloo"
    if device == "cuda":
        torch.cuda.set_device(process.local_rank)
        backend = "cpu:gloo,cuda:nccl"
    elif process.local_world_size > 1:
        torch.set_num_threads(max(1, usable_cores() // process.local_world_size))
    try:
        process.join(backend)
    except (RuntimeError, ValueError) as error:
        raise TrainingError(
            f"the {process.world_size} processes did not find each other at {process.url}: {error}"
        ) from error
    code = function(*args)
    dist.destroy_process_group()
    return code
