# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""CPU cores and memory that this process may use, and settings of the allocator and the garbage collector."""

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
    """Number of cores that this process may use, at least 1.

    This is the minimum of its affinity (taskset, SLURM) and its container's quota. Distributed processes on one
    machine share these cores: divide by `cmpf.common.distributed.local_world_size()`.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _container_quota()
    return max(1, affinity if quota is None else min(affinity, math.ceil(quota)))


def _container_quota() -> float | None:
    """The container's CPU quota, in cores; None = no limit, or no container."""
    try:
        if _QUOTA_V2.is_file():
            limit, period = _QUOTA_V2.read_text(encoding="ascii").split()
        else:
            limit, period = _QUOTA_V1.read_text(encoding="ascii"), _PERIOD_V1.read_text(encoding="ascii")
        quota = float(limit) / float(period)  # "max" raises a ValueError
    except (OSError, ValueError, ZeroDivisionError):
        return None
    return quota if quota > 0 else None


def available_memory() -> int:
    """Available memory in bytes, limited by the container's quota; 2**62 if unknown."""
    limits = [2**62]
    with suppress(OSError, ValueError, IndexError):
        lines = _MEMORY.read_text(encoding="ascii").splitlines()
        limits += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    with suppress(OSError, ValueError):  # a container's limit may be "max"
        limit, used = (int(path.read_text(encoding="ascii")) for path in _MEMORY_V2)
        limits.append(limit - used)
    return max(0, min(limits))


def let_threads_sleep() -> None:
    """Lets OpenMP's threads sleep while they wait for one another, unless OMP_WAIT_POLICY says otherwise.

    By default they spin, on a core that another process may need: where two share the cores, each step of PyTorch
    then waits for the system to switch between them (docs/performance.md). To be called before torch is imported.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def keep_freed_memory() -> None:
    """Lets glibc keep up to 2 GiB of freed memory for later allocations; does nothing with other C libraries.

    By default glibc maps each tensor of 32 MiB or more anew, and zeroing its pages takes 8 % of the time of a full-size
    model on a CPU. Only commands call this, never the library. `release_memory` still returns all of it.
    """
    mallopt = _c_function("mallopt")
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def release_memory() -> None:
    """Returns freed memory to the system, except up to 64 MiB per thread; does nothing without glibc."""
    malloc_trim = _c_function("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)


def _c_function(name: str) -> Any:
    """A function of the C library; None if it has no such function or the system is not Linux."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


@contextmanager
def gc_disabled() -> Iterator[None]:
    """Disables garbage collection within the block, and freezes the objects that exist at its end.

    Importing libraries and building a model creates a million permanent objects; collecting them takes 0.6 of the 3.9 s
    of CPU time of `cmpf predict` for one image. Only commands use this, and call `gc.unfreeze()` at their end.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()
