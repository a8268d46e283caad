# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Starts the processes of a training, and ends all of them when one dies."""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from tqdm import tqdm

from cmpf.common.cpu import usable_cores
from cmpf.engine.cluster import Place, place_from_environment
from cmpf.errors import CMPFError, ConfigError, TrainingError

GRACE = 15.0  # seconds that processes have to end by themselves after one has died
SETTLE = 2.0  # seconds in which the process that died first may be followed by those that it took with it


@dataclass(frozen=True)
class Ending:
    """How a process ended.

    message: its error, "" where it died without one. ours: of a kind that a user can cause. details: traceback, "" for
    our own. at: time.time() of the error.
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
    on one machine is wanted, the function is simply called, without a group; else processes are started.

    Args:
        function: importable by its name; returns an exit code.
        num_processes: on this machine.
        num_machines, machine_rank: machines of the group, and this one's number.
        dist_url: tcp://HOST:PORT of machine 0, the same on all machines; "auto" on one machine.
        args: of the function; can be pickled.
        device: "cuda" = one GPU a process and NCCL, "cpu" = gloo.
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
    return _Family(function, args, device).run(num_processes, num_machines, machine_rank, dist_url)


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


class _Family:
    """The processes of this machine, and the parent's care for them."""

    def __init__(self, function: Callable[..., int], args: tuple[Any, ...], device: str) -> None:
        self._function = function
        self._args = args
        self._device = device
        self._processes: dict[int, Any] = {}
        self._pipes: dict[int, Connection] = {}
        self._signals = 0

    def run(self, num_processes: int, num_machines: int, machine_rank: int, dist_url: str) -> int:
        """Starts the processes and waits for them."""
        store = None
        if dist_url == "auto":
            # The parent holds the store, at a port that the system has found free.
            store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
            dist_url = f"tcp://127.0.0.1:{store.port}"
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            for number in before:
                signal.signal(number, self._pass_on)
            for local in range(num_processes):
                place = Place(
                    rank=machine_rank * num_processes + local,
                    local_rank=local,
                    world_size=num_machines * num_processes,
                    local_world_size=num_processes,
                    url=dist_url,
                    store_elsewhere=store is not None,
                )
                self._start(place)
            return self._watch()
        finally:
            self._kill()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _start(self, place: Place) -> None:
        context = mp.get_context("spawn")
        receiving, sending = context.Pipe(duplex=False)
        process = context.Process(
            target=_child, args=(self._function, self._args, place, self._device, sending)
        )
        process.start()
        sending.close()
        self._processes[place.rank], self._pipes[place.rank] = process, receiving

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        """The processes have groups of their own, so a signal reaches them through here, and only once each."""
        self._signals += 1
        for process in self._processes.values():
            if process.is_alive():
                os.kill(process.pid, number)

    def _watch(self) -> int:
        """Waits for all processes, or until one of them has died."""
        running = dict(self._processes)
        while running:
            ended = wait([process.sentinel for process in running.values()])
            for rank in [rank for rank, process in running.items() if process.sentinel in ended]:
                running.pop(rank).join()
            if any(process.exitcode for process in self._processes.values()):
                raise self._error()
        return 0

    def _error(self) -> TrainingError:
        """Lets the others end, and tells of the process that died first."""
        self._wait_for_all(SETTLE)
        endings = [self._ending(rank, p) for rank, p in self._processes.items() if p.exitcode]
        running = [process for process in self._processes.values() if process.is_alive()]
        for process in running:
            process.terminate()
        self._wait_for_all(GRACE)
        # A killed process leaves no message; one of our own errors says more than the broken connections after it.
        cause = min(endings, key=lambda ending: (ending.message != "", not ending.ours, ending.at))
        if self._signals and not cause.message:
            raise KeyboardInterrupt  # stopped before there was anything to save, or twice
        if cause.details:
            print(cause.details, file=sys.stderr)
        others = "; the other processes were ended" if len(self._processes) > 1 else ""
        text = cause.message or f"it {_died(self._processes[cause.rank].exitcode)}"
        return TrainingError(f"process {cause.rank}: {text}{others}")

    def _ending(self, rank: int, process: Any) -> Ending:
        with suppress(EOFError, OSError):
            if self._pipes[rank].poll():
                ending: Ending = self._pipes[rank].recv()
                return ending
        return Ending(rank=rank, message="", ours=False, details="", at=time.time())

    def _wait_for_all(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        for process in self._processes.values():
            process.join(max(0.0, deadline - time.monotonic()))

    def _kill(self) -> None:
        for process in self._processes.values():
            if process.is_alive():
                process.kill()
            process.join()


def _died(exitcode: int) -> str:
    if exitcode < 0:
        name = signal.Signals(-exitcode).name
        return f"was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    return f"ended with exit code {exitcode}"


def _child(
    function: Callable[..., int], args: tuple[Any, ...], place: Place, device: str, pipe: Connection
) -> None:
    """A started process: the function, and a message to the parent if it fails."""
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C reaches the parent alone, which passes it on
    threading.Thread(target=_end_with_parent, daemon=True).start()
    tqdm.set_lock(threading.RLock())  # its own is shared among processes, and left behind by the exit below
    try:
        code = _in_group(function, args, place, device)
    except KeyboardInterrupt:
        code = 1
    except Exception as error:
        ours = isinstance(error, CMPFError)
        message = str(error) if ours else f"{type(error).__name__}: {error}"
        details = "" if ours else traceback.format_exc()
        pipe.send(Ending(place.rank, message or "error", ours=ours, details=details, at=time.time()))
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    # Not the usual way out: libraries with a broken connection may wait at it for ever.
    os._exit(code)


def _end_with_parent() -> None:
    """A process whose parent was killed saves and ends."""
    parent = mp.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)


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
