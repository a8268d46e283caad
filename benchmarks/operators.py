# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""How many operators a call launches: what grows when a loop over classes, heads or queries has crept in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile


def count_operators(run: Callable[[], Any]) -> Counter[str]:
    """Operators of torch by name, those that others call included. The first call may make tables: run it before."""
    run()
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiler:
        run()
    return Counter(event.name for event in profiler.events() if event.name.startswith("aten::"))
