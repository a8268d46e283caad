# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""How much of the machine this process may use."""

from __future__ import annotations

import ctypes
import gc
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_QUOTA_V2 = Path("/sys/fs/cgroup/cpu.max")  # "QUOTA PERIOD" in microseconds, or "max PERIOD"
_QUOTA_V1 = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")  # microseconds, -1 = no limit
_MEMORY = Path("/proc/meminfo")
_MEMORY_V2 = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current"))
_PERIOD_V1 = Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # glibc's numbers of options of mallopt


def usable_cores() -> int:
    """Cores that this process may keep busy, at least 1.

    The smaller of its affinity (taskset, SLURM) and its container's quota, which may both be far below the number
    of cores of the machine. Processes of one run on one machine share them: divide by
    `cmpf.common.distributed.local_world_size()`.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _container_quota()
    return max(1, allowed if quota is None else min(allowed, math.ceil(quota)))


def _container_quota() -> float | None:
    """Cores that a container may use on average; None = no limit, or no container."""
    try:
        if _QUOTA_V2.is_file():
            limit, period = _QUOTA_V2.read_text(encoding="ascii").split()
        else:
            limit, period = _QUOTA_V1.read_text(encoding="ascii"), _PERIOD_V1.read_text(encoding="ascii")
        quota = float(limit) / float(period)  # "max" is no number
    except (OSError, ValueError, ZeroDivisionError):
        return None
    return quota if quota > 0 else None


def available_memory() -> int:
    """Bytes that this process may still take without others losing theirs; 2**62 where the system does not tell."""
    found = [2**62]
    with suppress(OSError, ValueError, IndexError):
        lines = _MEMORY.read_text(encoding="ascii").splitlines()
        found += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    with suppress(OSError, ValueError):  # a container's limit may be "max"
        limit, used = (int(path.read_text(encoding="ascii")) for path in _MEMORY_V2)
        found.append(limit - used)
    return max(0, min(found))


def keep_freed_memory() -> None:
    """Lets the process keep up to 2 GiB of freed memory for what it allocates next, where its C library can (glibc).

    By default glibc takes each tensor of 32 MiB or more from the system and gives it back; clearing its pages anew is
    8 % of the time of a full-size model on a CPU. For a command, whose process is its own; `release_memory` still
    gives all of it back.
    """
    mallopt = _of_c_library("mallopt")
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def release_memory() -> None:
    """Gives memory that is free inside the process back to the system, as far as its C library can (glibc).

    It keeps up to 64 MiB for each thread that had pieces of up to 32 MiB, such as masks of large images.
    """
    trim = _of_c_library("malloc_trim")
    if trim is not None:
        trim(0)


def _of_c_library(name: str) -> Any:
    """A function of the C library of this process; None = it has no such function, or this is no Linux."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


@contextmanager
def uncollected() -> Iterator[None]:
    """No garbage collection while libraries are imported and a model is built; what is there then is never looked at.

    A million objects come and stay, and every round of the collector goes through them: 0.6 of the 3.9 s of processor
    time in which `cmpf predict` finds what is in one image. For a command, whose process is its own, and which calls
    `gc.unfreeze()` at its end.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()
