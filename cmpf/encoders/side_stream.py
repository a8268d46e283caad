# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Work beside other work: two networks that do not need each other, on one GPU at the same time."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor


def start_beside(work: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
    """Starts work on a CUDA stream of its own while the caller goes on; on other devices it is done at once.

    Args:
        work: may read what the caller's stream has computed or been given to compute so far.
        device: where it runs.
    Returns:
        A function that gives the result, for use on the caller's stream.
    """
    if device.type != "cuda":
        result = work()
        return lambda: result
    stream = _side_stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        found = work()

    def joined() -> Tensor:
        caller = torch.cuda.current_stream(device)
        caller.wait_stream(stream)
        found.record_stream(caller)  # else its memory might be given away while the caller still reads it
        return found

    return joined


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """One for each device: memory that a stream has freed can only serve the same stream again."""
    stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    return stream
