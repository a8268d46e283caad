# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Measures peak memory, available memory and launched operators."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from cmpf.common import cpu


def peak_memory(run: Callable[[], Any], device: torch.device) -> int:
    """Peak memory of torch's allocator during a call, in bytes above the memory allocated before.

    On CUDA this is the allocator's own maximum. On the CPU it is computed from the allocations that torch's profiler
    records, without the memory of NumPy, Pillow and scratch memory inside libraries.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        result = run()
        torch.cuda.synchronize(device)
        del result
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        result = run()
    del result
    events = profiler.profiler.kineto_results.events() if profiler.profiler else []
    changes = sorted(
        (event.start_ns(), event.nbytes())
        for event in events
        if event.name() == "[memory]" and event.device_type() == DeviceType.CPU
    )
    allocated = peak = 0
    for _, nbytes in changes:
        allocated += nbytes
        peak = max(peak, allocated)
    return peak


def available_memory(device: torch.device) -> int:
    """Free bytes on the device; see cmpf.common.cpu.available_memory for the CPU."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return cpu.available_memory()


def count_operators(run: Callable[[], Any]) -> Counter[str]:
    """Number of calls of each torch operator, including nested ones, in the second call of a function."""
    run()  # may fill caches
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiler:
        run()
    return Counter(event.name for event in profiler.events() if event.name.startswith("aten::"))
