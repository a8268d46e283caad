# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Handles SIGINT, SIGTERM and SLURM's SIGUSR1 as requests to stop. Must not import torch: some commands run without."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))


class Interrupted(BaseException):
    """Raised by a signal inside `StopRequest.at_once()`. A BaseException, so `except Exception` does not catch it."""


class StopRequest:
    """Context manager in which the first signal sets `requested`; a second one has its previous effect.

    Python handles signals in the main thread only; in other threads no handler is installed.
    """

    def __init__(self) -> None:
        self.requested = False
        self.signal_name = ""
        self._at_once = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """A context in which a signal raises Interrupted immediately; for long work that may be abandoned."""
        self._at_once = True
        try:
            if self.requested:
                raise Interrupted
            yield
        finally:
            self._at_once = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self.signal_name = signal.Signals(number).name
        self._restore()
        if hasattr(signal, "SIGCHLD"):
            # A signal to the process group also ends the data loader's workers. PyTorch's SIGCHLD handler would
            # raise an error wherever the main process is; the iteration must finish first.
            self._previous[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # print() is not reentrant: the signal may have interrupted one.
        os.write(2, f"\n{self.signal_name}: saving and stopping (repeat to stop immediately)\n".encode())
        if self._at_once:
            raise Interrupted

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            # None: the handler was not installed from Python, which cannot restore it.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous = {}
