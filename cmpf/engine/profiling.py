# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Profiles training steps or evaluation batches by section.

Sections are `torch.profiler.record_function` blocks in the code that does the work; this module sums their times.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from cmpf.common.files import replacing
from cmpf.engine.trainer import Trainer

if TYPE_CHECKING:
    from cmpf.evaluation import Evaluator

TRACE_FILE = "profile_trace.json"
WARMUP_STEPS = 2  # unmeasured: memory allocation and the libraries' choice of kernels
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


@dataclass(frozen=True)
class Profile:
    """Mean times of a step.

    Attributes:
        iterations: number of measured steps.
        seconds: mean seconds by section.
        total: mean seconds of a whole step.
        images: mean images per step, in this process.
    """

    iterations: int
    seconds: dict[str, float]
    total: float
    images: float

    def table(self) -> str:
        """A table with one line per section: milliseconds and share of the step."""
        lines = [
            f"mean of {self.iterations} steps, {self.images / self.total:.3g} images per second",
            f"{'section':<16} {'ms':>9} {'share':>7}",
        ]
        for name, seconds in self.seconds.items():
            lines.append(f"{name:<16} {1000 * seconds:>9.2f} {seconds / self.total:>6.1%}")
        return "\n".join([*lines, f"{'step':<16} {1000 * self.total:>9.2f} {1:>6.1%}"])


def profile_training(trainer: Trainer, *, iterations: int, folder: Path | None) -> Profile:
    """Runs and measures training steps. The trainer cannot be used afterwards.

    Args:
        trainer: a trainer that has not started.
        iterations: number of measured steps; two warm-up steps precede them.
        folder: receives profile_trace.json of the last step, for chrome://tracing or Perfetto; None = no trace.
    """
    trainer.model.train()
    batches = iter(trainer.loader)

    def step() -> int:
        with record_function("data"):
            batch = next(batches)
        trainer.step(batch)
        return len(batch)

    return _profile(step, SECTIONS, iterations=iterations, folder=folder)


def profile_evaluation(
    infer: Callable[[Any], Any],
    loader: Iterable[Any],
    evaluators: Sequence[Evaluator],
    *,
    iterations: int,
    folder: Path | None,
) -> Profile:
    """Evaluates and measures batches, starting over when the loader is exhausted.

    Args:
        infer: predicts a batch; time outside its own sections counts as post-processing.
        loader: batches.
        evaluators: process the predictions; they are not evaluated.
        iterations: number of measured batches; two warm-up batches precede them.
        folder: see profile_training.
    """
    batches = _repeat(loader)

    @torch.no_grad()
    def step() -> int:
        with record_function("data"):
            batch = next(batches)
        with record_function("post-processing"):
            outputs = infer(batch)
        with record_function("evaluators"):
            for evaluator in evaluators:
                evaluator.reset()  # evaluators reject repeated images
                evaluator.process(batch, outputs)
        return len(batch)

    return _profile(step, EVALUATION_SECTIONS, iterations=iterations, folder=folder)


def _profile(
    step: Callable[[], int], sections: Sequence[str], *, iterations: int, folder: Path | None
) -> Profile:
    """Measures steps; `step` returns its number of images."""
    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
    for _ in range(WARMUP_STEPS):
        step()
    images, total = 0, 0.0
    sums: dict[str, float] = defaultdict(float)
    for number in range(iterations):  # one profile per step: the events of many steps would fill the memory
        with profile(activities=activities) as profiler:
            started = time.perf_counter()
            images += step()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            total += time.perf_counter() - started
        for name, seconds in _own_seconds(profiler, sections).items():
            sums[name] += seconds
        if folder is not None and number == iterations - 1:
            with replacing(folder / TRACE_FILE) as temporary:
                profiler.export_chrome_trace(str(temporary))
    means = {name: sums[name] / iterations for name in sections if name in sums}
    means[OTHER] = max(0.0, total / iterations - sum(means.values()))
    return Profile(iterations, means, total / iterations, images / iterations)


def _own_seconds(profiler: profile, sections: Sequence[str]) -> dict[str, float]:
    """Seconds of each section without its nested sections: GPU time if the section ran on the GPU, else CPU time."""
    seconds: dict[str, float] = defaultdict(float)
    for event in profiler.events() or ():  # type: ignore[no-untyped-call]
        if event.name not in sections or event.device_type.name != "CPU":
            continue
        spent = (event.device_time_total or event.cpu_time_total) / 1e6
        seconds[event.name] += spent
        outer = event.cpu_parent
        while outer is not None and outer.name not in sections:
            outer = outer.cpu_parent
        if outer is not None:
            seconds[outer.name] -= spent
    return {name: max(0.0, value) for name, value in seconds.items()}


def _repeat(loader: Iterable[Any]) -> Iterator[Any]:
    while True:
        yield from loader
