# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Measures two functions that compute the same thing: agreement, time by alternating runs, peak memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.counting import peak_memory

MIN_ROUNDS = 3
CHUNK = 1 << 24  # numbers that are compared at one time: gradients of masks are as large as the masks


class DisagreementError(Exception):
    """Two formulations of one thing give different results, so that their times say nothing."""


@dataclass(frozen=True)
class Pair:
    """What is measured: both functions take nothing and return tensors, or dicts and sequences of them.

    tolerance: largest difference between the results, relative to the largest number of the published one.
    share: share of the numbers that may differ by more, where rounding decides between two labels.
    compare: what is compared where runs draw at random or train; None = the two functions themselves.
    published_bytes: what the published formulation allocates at once, where that may not fit.
    """

    ours: Callable[[], Any]
    published: Callable[[], Any]
    tolerance: float
    share: float = 0.0
    compare: tuple[Callable[[], Any], Callable[[], Any]] | None = None
    published_bytes: int = 0


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of repeated measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Quartiles by linear interpolation; of one value, that value."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)


@dataclass(frozen=True)
class Measurement:
    """Result of a pair. Times in seconds, memory in bytes above what was there before.

    ratio: published time / our time of each round. difference: see Pair.tolerance.
    """

    rounds: int
    difference: float
    ours: Spread
    published: Spread
    ratio: Spread
    ours_memory: int
    published_memory: int

    @property
    def memory_ratio(self) -> float:
        """Our peak / the published peak."""
        return self.ours_memory / max(1, self.published_memory)


def measure(
    pair: Pair,
    *,
    device: torch.device,
    rounds: int,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> Measurement:
    """Checks that both agree, then runs them in turns.

    Args:
        rounds: at most so many; seconds: no further round begins after so long, but MIN_ROUNDS are always run.
        clock: tells the time in seconds.
    Raises:
        DisagreementError: their results differ by more than the tolerance.
    """
    difference = check(pair)
    memory = [peak_memory(run, device) for run in (pair.ours, pair.published)]  # the warm-up, too
    times: list[tuple[float, float]] = []
    begun = clock()
    while len(times) < rounds and (len(times) < MIN_ROUNDS or clock() - begun < seconds):
        # Who goes first alternates: a processor that heats up or slows down then hits both alike.
        if len(times) % 2:
            published, ours = timed(pair.published, device, clock), timed(pair.ours, device, clock)
        else:
            ours, published = timed(pair.ours, device, clock), timed(pair.published, device, clock)
        times.append((ours, published))
    return Measurement(
        rounds=len(times),
        difference=difference,
        ours=Spread.of([ours for ours, _ in times]),
        published=Spread.of([published for _, published in times]),
        ratio=Spread.of([published / ours for ours, published in times]),
        ours_memory=memory[0],
        published_memory=memory[1],
    )


def check(pair: Pair) -> float:
    """The difference between the two results, see Pair.tolerance.

    Raises:
        DisagreementError: it is too large, or the results have other shapes.
    """
    ours, published = pair.compare or (pair.ours, pair.published)
    found, wanted = flatten(ours()), flatten(published())
    if found.keys() != wanted.keys():
        raise DisagreementError(f"results have {sorted(found)}, expected {sorted(wanted)}")
    largest = 0.0
    for name, expected in wanted.items():
        largest = max(largest, _difference(name, found[name], expected, pair))
    return largest


def flatten(value: Any, name: str = "result") -> dict[str, Tensor]:
    """Every tensor and number of a nested result, by its path."""
    if isinstance(value, Tensor):
        return {name: value.detach()}
    if isinstance(value, bool | int | float):
        return {name: torch.tensor(float(value))}
    if isinstance(value, Mapping):
        items = [(f"{name}.{key}", part) for key, part in value.items()]
    else:
        items = [(f"{name}[{index}]", part) for index, part in enumerate(value)]
    return {path: tensor for key, part in items for path, tensor in flatten(part, key).items()}


def _difference(name: str, found: Tensor, wanted: Tensor, pair: Pair) -> float:
    if found.shape != wanted.shape:
        raise DisagreementError(f"{name} has shape {tuple(found.shape)}, expected {tuple(wanted.shape)}")
    if wanted.numel() == 0:
        return 0.0
    largest_wanted = max(float(part.double().abs().max()) for part in wanted.flatten().split(CHUNK))
    scale = max(largest_wanted, 1e-12)
    above, largest_within, largest = 0, 0.0, 0.0
    for part, expected in zip(found.flatten().split(CHUNK), wanted.flatten().split(CHUNK), strict=True):
        difference = (part.double() - expected.double()).abs() / scale
        within = difference <= pair.tolerance  # False for what is no number
        above += int((~within).sum())
        largest_within = max(largest_within, float((difference * within).nan_to_num().max()))
        largest = max(largest, float(difference.max()))
    if above > pair.share * wanted.numel():
        raise DisagreementError(
            f"{name} differs by {largest:.2g} of its largest number in {above / wanted.numel():.2%} of its "
            f"numbers; allowed: {pair.tolerance:.2g}, and more in {pair.share:.2%}"
        )
    return largest_within


def timed(
    run: Callable[[], Any], device: torch.device, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Seconds of one call, until the device has done all of it."""
    _finish(device)
    begun = clock()
    result = run()
    _finish(device)
    elapsed = clock() - begun
    del result
    return elapsed


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
