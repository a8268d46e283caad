# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Peak memory."""

from __future__ import annotations

import sys

import torch

from benchmarks.memory import available_memory, peak_memory

CPU = torch.device("cpu")


def test_the_peak_is_what_lived_at_one_time():
    def work() -> torch.Tensor:
        a = torch.ones(1000, 1000)  # 4 MB
        b = a * 2  # 8 MB
        del a
        c = b + 1  # 8 MB again
        del b
        return c

    assert 8e6 <= peak_memory(work, CPU) < 8.1e6


def test_what_was_there_before_does_not_count():
    before = torch.ones(1000, 1000)
    assert peak_memory(lambda: before.add_(1), CPU) < 1e5


def test_free_memory_is_a_sensible_number():
    assert 1e6 < available_memory(CPU) <= sys.maxsize
