# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Where the time of a training step goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cmpf.engine.timing import Stopwatch
from cmpf.engine.trainer import Trainer
from cmpf.files import replacing

TRACE_FILE = "profile_trace.json"
WARM_UP = 2  # steps before the measured ones: allocation, and what libraries choose at the first call
TRACED = 2  # steps in the trace; the profiler slows them down, so they are not the measured ones
SECTIONS = ("data", "frozen encoders", "decoder", "matching", "losses", "backward", "optimiser")
OTHER = "other"


@dataclass(frozen=True)
class Profile:
    """Mean seconds of a step by section, and in all."""

    iterations: int
    seconds: dict[str, float]
    total: float

    def table(self) -> str:
        """One line a section: milliseconds and share of the step."""
        rows = [(name, seconds) for name, seconds in self.seconds.items()]
        lines = [f"mean of {self.iterations} steps", f"{'section':<16} {'ms':>9} {'share':>7}"]
        lines += [f"{name:<16} {1000 * seconds:>9.2f} {seconds / self.total:>6.1%}" for name, seconds in rows]
        return "\n".join([*lines, f"{'step':<16} {1000 * self.total:>9.2f} {1:>6.1%}"])


def profile_training(
    trainer: Trainer, *, iterations: int, parts: Mapping[str, tuple[Any, str]], folder: Path | None
) -> Profile:
    """Takes training steps and measures them; nothing is saved, so the trainer is of no use afterwards.

    Args:
        trainer: at its start.
        iterations: steps measured, after two to warm up; two more are traced.
        parts: sections inside the forward pass, each an object and the name of its method; what is left of the pass
            is the decoder's.
        folder: receives profile_trace.json for chrome://tracing or Perfetto; None = no trace.
    """
    trainer.model.train()
    batches = iter(trainer.loader)
    watch = trainer.step.watch

    def steps(count: int) -> None:
        for _ in range(count):
            with watch("data"):
                batch = next(batches)
            trainer.step(batch)

    with _watched(watch, parts):
        steps(WARM_UP)
        watch.start()
        started = time.perf_counter()
        steps(iterations)
        total = (time.perf_counter() - started) / iterations
        measured = {name: seconds / iterations for name, seconds in watch.seconds.items()}
        if folder is not None:
            _trace(lambda: steps(TRACED), folder / TRACE_FILE)
        watch.stop()
    seconds = {name: measured[name] for name in SECTIONS if name in measured}
    return Profile(iterations, {**seconds, OTHER: max(0.0, total - sum(seconds.values()))}, total)


@contextmanager
def _watched(watch: Stopwatch, parts: Mapping[str, tuple[Any, str]]) -> Iterator[None]:
    """Inside, calls of these methods are timed."""
    own = [(vars(owner), name, vars(owner).get(name)) for owner, name in parts.values()]
    for section, (owner, name) in parts.items():
        vars(owner)[name] = _timed(watch, section, getattr(owner, name))
    try:
        yield
    finally:
        for attributes, name, before in own:
            attributes.pop(name)
            if before is not None:
                attributes[name] = before


def _timed(watch: Stopwatch, section: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def timed(*args: Any, **kwargs: Any) -> Any:
        with watch(section):
            return function(*args, **kwargs)

    return timed


def _trace(work: Callable[[], None], path: Path) -> None:
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        work()
    with replacing(path) as temporary:
        profiler.export_chrome_trace(str(temporary))
