# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What goes into a training, and how it ends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from cmpf.engine.evaluations import Results


class TrainLoader(Protocol):
    """Endless batches whose position can be saved: after `load_state_dict`, `iter` gives the next batch.

    It draws nothing from the global random generators, or a resumed run would draw other numbers.
    """

    def __iter__(self) -> Iterator[Any]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class TrainingEnd:
    """How a call of Trainer.train ended.

    iteration: iterations done in all. finished: max_iter was reached and evaluated; otherwise `stopped_by`
    names the signal. results: the latest evaluation, None where there was none.
    """

    iteration: int
    finished: bool
    stopped_by: str
    results: Results | None
