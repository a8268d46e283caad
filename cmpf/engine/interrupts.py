# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""SIGTERM, SIGINT and SLURM's SIGUSR1 are a polite request to stop. Commands that do so without torch use it, too."""

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
    """Raised by a signal inside `StopRequest.at_once()`; not an Exception, so that nothing swallows it."""


class StopRequest:
    """While entered, the first signal sets `requested`; the second does what it would do without us.

    Signals reach the main thread only; entered in another thread, nothing is installed.
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
        """For long work that needs no tidy end: here a signal raises Interrupted without delay."""
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
            # A signal to the whole process group ends the loader's workers too. PyTorch raises an error in
            # the middle of whatever runs when a worker dies; the iteration shall be finished first.
            self._previous[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # A print here could re-enter the very print that the signal interrupted; a bare write cannot.
        os.write(2, f"\n{self.signal_name}: saving and stopping (once more to stop at once)\n".encode())
        if self._at_once:
            raise Interrupted

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            # None: a handler that was not set from Python and that Python cannot set again.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous = {}
