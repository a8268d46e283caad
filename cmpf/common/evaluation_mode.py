# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Evaluation mode for the time of a call, so that a caller's network stays as it was."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn


class EvaluationMode:
    """While any thread is inside, a network is in evaluation mode; afterwards each part is in the mode it had."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._training: list[nn.Module] = []

    @contextmanager
    def of(self, network: nn.Module) -> Iterator[None]:
        """The network of one EvaluationMode is always the same."""
        with self._lock:
            if self._inside == 0:
                self._training = [part for part in network.modules() if part.training]
                _set_training(self._training, False)
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if self._inside == 0:
                    _set_training(self._training, True)
                    self._training = []


def _set_training(parts: Sequence[nn.Module], training: bool) -> None:
    for part in parts:
        part.training = training
