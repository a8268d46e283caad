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
_PERIOD_V1 = Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")
_MEMORY_INFO = Path("/proc/meminfo")
_CPU_INFO = Path("/proc/cpuinfo")
_CGROUP_V2 = Path("/sys/fs/cgroup")  # folder of memory.max, memory.current and memory.stat
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # options of glibc's mallopt
SPIN_COUNT = "30000"  # a tenth of GNU OpenMP's default


def usable_cores() -> int:
    """Number of cores that this process may use, at least 1.

    This is the minimum of its affinity (taskset, SLURM) and its container's quota. Distributed processes on one
    machine share these cores: divide by `cmpf.common.distributed.local_world_size()`.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _container_quota()
    return max(1, affinity if quota is None else min(affinity, math.ceil(quota)))


def available_memory() -> int:
    """Available memory in bytes, limited by the container's quota; 2**62 if unknown.

    A container's inactive page cache counts as available, as the kernel reclaims it first.
    """
    limits = [2**62]
    with suppress(OSError, ValueError, LookupError):
        limits.append(1024 * _read_fields(_MEMORY_INFO)["MemAvailable:"])
    with suppress(OSError, ValueError, LookupError):  # a container's limit may be "max"
        limit, used = (
            int((_CGROUP_V2 / name).read_text("ascii")) for name in ("memory.max", "memory.current")
        )
        limits.append(limit - used + _read_fields(_CGROUP_V2 / "memory.stat")["inactive_file"])
    return max(0, min(limits))


def cpu_info(name: str) -> str:
    """A field of the first core in Linux's /proc/cpuinfo, such as "model name"; "" if the system does not tell it."""
    with suppress(OSError):
        for line in _CPU_INFO.read_text(encoding="utf-8").splitlines():
            if line.startswith(name):
                return line.partition(":")[2].strip()
    return ""


def limit_spinning() -> None:
    """Limits how long the threads of GNU OpenMP spin while they wait, unless the environment sets this already.

    With the default, two busy processes on the same two cores made the tiny model 60 times as slow, with this twice
    (docs/performance.md). Must be called before torch is imported.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)


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


def _read_fields(path: Path) -> dict[str, int]:
    """Numbers by name, from lines of the form "NAME NUMBER [UNIT]"."""
    lines = (line.split() for line in path.read_text(encoding="ascii").splitlines())
    return {fields[0]: int(fields[1]) for fields in lines}


def _c_function(name: str) -> Any:
    """A function of the C library; None if it has no such function or the system is not Linux."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
