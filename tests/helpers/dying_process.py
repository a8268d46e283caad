# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""A process that dies while another one waits for it; it imports little, so that it starts fast."""

from __future__ import annotations

import os
import signal

from cmpf.common import distributed
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
