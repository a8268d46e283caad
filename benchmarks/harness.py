# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Compares two functions that compute the same result: difference, time of alternating runs, and peak memory."""

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
CHUNK = 1 << 24  # number of values compared at once, to limit memory


class DisagreementError(Exception):
    """The two functions return different results, so that comparing their times is meaningless."""


@dataclass(frozen=True)
class Pair:
    """Two functions to compare. They take no arguments and return tensors, or dicts and sequences of tensors.

    Attributes:
        ours: CMPF's function.
        published: the published formulation.
        tolerance: maximum difference of the results, relative to the largest published value.
        share: fraction of values that may differ by more, e.g. where rounding decides between two labels.
        compare: functions whose results are compared instead, for functions that use random numbers or train.
        published_bytes: memory that the published formulation allocates, if that may not fit.
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
        """Median and quartiles by linear interpolation."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)


@dataclass(frozen=True)
class Measurement:
    """Result of comparing a pair.

    Attributes:
        rounds: number of measured rounds.
        difference: see Pair.tolerance.
        ours: seconds of CMPF.
        published: seconds of the published formulation.
        ratio: published time / CMPF's time in each round.
        ours_memory: peak memory of CMPF, in bytes above the memory allocated before.
        published_memory: peak memory of the published formulation.
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
        """CMPF's peak memory / the published one."""
        return self.ours_memory / max(1, self.published_memory)


def measure(
    pair: Pair,
    *,
    device: torch.device,
    rounds: int,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> Measurement:
    """Checks that the results agree, then measures the functions alternately.

    Args:
        pair: the functions.
        device: their device.
        rounds: maximum number of rounds.
        seconds: no round starts after this time, except the first MIN_ROUNDS.
        clock: returns the time in seconds.
    Raises:
        DisagreementError: the results differ by more than the tolerance.
    """
    difference = check(pair)
    memory = [peak_memory(run, device) for run in (pair.ours, pair.published)]  # also warms up
    times: list[tuple[float, float]] = []
    started = clock()
    while len(times) < rounds and (len(times) < MIN_ROUNDS or clock() - started < seconds):
        # The order alternates, so that a change of the processor's speed affects both functions.
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
    """The difference of the results, see Pair.tolerance.

    Raises:
        DisagreementError: the difference is too large, or the shapes differ.
    """
    ours, published = pair.compare or (pair.ours, pair.published)
    actual, expected = flatten(ours()), flatten(published())
    if actual.keys() != expected.keys():
        raise DisagreementError(f"results have {sorted(actual)}, expected {sorted(expected)}")
    return max((_difference(name, actual[name], expected[name], pair) for name in expected), default=0.0)


def flatten(value: Any, name: str = "result") -> dict[str, Tensor]:
    """All tensors and numbers of a nested result by path, e.g. "result.masks[0]"."""
    if isinstance(value, Tensor):
        return {name: value.detach()}
    if isinstance(value, bool | int | float):
        return {name: torch.tensor(float(value))}
    if isinstance(value, Mapping):
        items = [(f"{name}.{key}", part) for key, part in value.items()]
    else:
        items = [(f"{name}[{index}]", part) for index, part in enumerate(value)]
    return {path: tensor for key, part in items for path, tensor in flatten(part, key).items()}


def _difference(name: str, actual: Tensor, expected: Tensor, pair: Pair) -> float:
    if actual.shape != expected.shape:
        raise DisagreementError(f"{name} has shape {tuple(actual.shape)}, expected {tuple(expected.shape)}")
    if expected.numel() == 0:
        return 0.0
    scale = max(1e-12, *(float(part.double().abs().max()) for part in expected.flatten().split(CHUNK)))
    above, largest_within, largest = 0, 0.0, 0.0
    for a, b in zip(actual.flatten().split(CHUNK), expected.flatten().split(CHUNK), strict=True):
        difference = (a.double() - b.double()).abs() / scale
        within = difference <= pair.tolerance  # False for NaN
        above += int((~within).sum())
        largest_within = max(largest_within, float((difference * within).nan_to_num().max()))
        largest = max(largest, float(difference.max()))
    if above > pair.share * expected.numel():
        raise DisagreementError(
            f"{name} differs by {largest:.2g} of its largest number in {above / expected.numel():.2%} of its "
            f"numbers; allowed: {pair.tolerance:.2g}, and more in {pair.share:.2%}"
        )
    return largest_within


def timed(
    run: Callable[[], Any], device: torch.device, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Seconds of one call, including the work on the device."""
    _synchronize(device)
    started = clock()
    result = run()
    _synchronize(device)
    elapsed = clock() - started
    del result
    return elapsed


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
