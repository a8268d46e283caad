# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Processes that die while others wait for them, or end when asked to; they import little and start fast."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from cmpf.common import distributed
from cmpf.engine.interrupts import StopRequest
from cmpf.engine.launch import launch
from cmpf.errors import TrainingError


def die(how: str) -> int:
    """The second process ends early; the first waits for it in a collective operation."""
    if distributed.rank() == 1:
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "error":
            raise TrainingError("the second one gave up")
        raise ZeroDivisionError("a bug")
    distributed.barrier()
    return 0


def wait_for_a_signal(folder: str) -> int:
    """Each process tells its number in a file, works until it is asked to stop, and tells that it saved."""
    place = Path(folder)
    with StopRequest() as stop:
        (place / f"{distributed.rank()}.pid").write_text(str(os.getpid()))
        while not stop.requested:
            time.sleep(0.05)
    (place / f"{distributed.rank()}.saved").touch()
    return 0


if __name__ == "__main__":
    sys.exit(launch(wait_for_a_signal, num_processes=2, args=(sys.argv[1],)))
