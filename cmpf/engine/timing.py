# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""How long the sections of a step take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch


class Stopwatch:
    """Adds up the time spent in named sections, each without the sections inside it.

    Switched off, as it begins, it costs nothing and does not wait for the device.

    Args:
        device: a GPU is waited for at both ends of a section, or its work would be counted where the host first
            waits for it.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._open: list[str] = []
        self._since = 0.0
        self.running = False
        self.seconds: dict[str, float] = {}

    def start(self) -> None:
        """Starts from zero."""
        self.running, self.seconds = True, {}

    def stop(self) -> None:
        """Sections are no longer timed; `seconds` stays."""
        self.running = False

    def __call__(self, section: str) -> AbstractContextManager[Any]:
        """Context in which time counts for this section."""
        return self._timed(section) if self.running else nullcontext()

    @contextmanager
    def _timed(self, section: str) -> Iterator[None]:
        self._switch()
        self._open.append(section)
        try:
            with torch.profiler.record_function(section):
                yield
        finally:
            self._switch()
            self._open.pop()

    def _switch(self) -> None:
        """Books the time since the last switch for the innermost section."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        if self._open:
            section = self._open[-1]
            self.seconds[section] = self.seconds.get(section, 0.0) + now - self._since
        self._since = now
