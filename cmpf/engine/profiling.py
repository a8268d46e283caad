# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Where the time of a training step goes, or that of an image in an evaluation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cmpf.common.files import replacing
from cmpf.engine.timing import Stopwatch
from cmpf.engine.trainer import Trainer

if TYPE_CHECKING:
    from cmpf.evaluation import Evaluator

TRACE_FILE = "profile_trace.json"
WARM_UP = 2  # steps before the measured ones: allocation, and what libraries choose at the first call
TRACED = 2  # steps in the trace; the profiler slows them down, so they are not the measured ones
SECTIONS = ("data", "frozen encoders", "decoder", "matching", "losses", "backward", "optimizer")
EVALUATION_SECTIONS = (
    "data",
    "frozen encoders",
    "decoder",
    "class ensemble",
    "SAM masks",
    "mask ensemble",
    "post-processing",
    "evaluators",
)
OTHER = "other"
Parts = Mapping[str, tuple[Any, str]]


@dataclass(frozen=True)
class Profile:
    """Mean seconds of a step by section, and in all. images: of a step, in this process."""

    iterations: int
    seconds: dict[str, float]
    total: float
    images: float

    def table(self) -> str:
        """One line a section: milliseconds and share of the step."""
        rows = [(name, seconds) for name, seconds in self.seconds.items()]
        lines = [
            f"mean of {self.iterations} steps, {self.images / self.total:.3g} images a second",
            f"{'section':<16} {'ms':>9} {'share':>7}",
        ]
        lines += [f"{name:<16} {1000 * seconds:>9.2f} {seconds / self.total:>6.1%}" for name, seconds in rows]
        return "\n".join([*lines, f"{'step':<16} {1000 * self.total:>9.2f} {1:>6.1%}"])


def profile_training(trainer: Trainer, *, iterations: int, parts: Parts, folder: Path | None) -> Profile:
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

    def step() -> int:
        with watch("data"):
            batch = next(batches)
        trainer.step(batch)
        return len(batch)

    return _profile(step, watch, SECTIONS, iterations=iterations, parts=parts, folder=folder)


def profile_evaluation(
    infer: Callable[[Any], Any],
    loader: Iterable[Any],
    evaluators: Sequence[Evaluator],
    *,
    device: torch.device,
    iterations: int,
    parts: Parts,
    folder: Path | None,
) -> Profile:
    """Evaluates some batches, again from the first one where there are no more, and measures them.

    Args:
        infer: gives the results of a batch; the model is already in evaluation mode.
        loader: batches. evaluators: what looks at the results; they are not asked for theirs.
        device: where the model is.
        iterations, folder: see profile_training.
        parts: sections inside the call, as in profile_training; what is left of it is post-processing.
    """
    batches = _again_and_again(loader)
    watch = Stopwatch(device)

    @torch.no_grad()
    def step() -> int:
        with watch("data"):
            batch = next(batches)
        with watch("post-processing"):
            outputs = infer(batch)
        with watch("evaluators"):
            for evaluator in evaluators:
                evaluator.process(batch, outputs)
        return len(batch)

    return _profile(step, watch, EVALUATION_SECTIONS, iterations=iterations, parts=parts, folder=folder)


def _profile(
    step: Callable[[], int],
    watch: Stopwatch,
    sections: Sequence[str],
    *,
    iterations: int,
    parts: Parts,
    folder: Path | None,
) -> Profile:
    """Takes steps, each of which tells how many images it had."""
    with _watched(watch, parts):
        for _ in range(WARM_UP):
            step()
        watch.start()
        started = time.perf_counter()
        images = sum(step() for _ in range(iterations))
        total = (time.perf_counter() - started) / iterations
        measured = {name: seconds / iterations for name, seconds in watch.seconds.items()}
        if folder is not None:
            _trace(lambda: [step() for _ in range(TRACED)], folder / TRACE_FILE)
        watch.stop()
    seconds = {name: measured[name] for name in sections if name in measured}
    seconds[OTHER] = max(0.0, total - sum(seconds.values()))
    return Profile(iterations, seconds, total, images / iterations)


def _again_and_again(loader: Iterable[Any]) -> Iterator[Any]:
    while True:
        yield from loader


@contextmanager
def _watched(watch: Stopwatch, parts: Parts) -> Iterator[None]:
    """Inside, calls of these methods are timed."""
    own = [(owner.__dict__, name, owner.__dict__.get(name)) for owner, name in parts.values()]
    for section, (owner, name) in parts.items():
        owner.__dict__[name] = _timed(watch, section, getattr(owner, name))
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


def _trace(work: Callable[[], Any], path: Path) -> None:
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        work()
    with replacing(path) as temporary:
        profiler.export_chrome_trace(str(temporary))
