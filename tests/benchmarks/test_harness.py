# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Agreement, alternation and statistics."""

from __future__ import annotations

import pytest
import torch

from benchmarks import harness
from benchmarks.harness import DisagreementError, Pair, Spread, check, flatten, measure

CPU = torch.device("cpu")


class Clock:
    """Time that stands still until somebody works."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def __call__(self) -> float:
        return self.now

    def worker(self, name: str, seconds: float):
        def work() -> torch.Tensor:
            self.now += seconds
            self.calls.append(name)
            return torch.ones(2)

        return work


def pair_of(ours: object, published: object, **changes: object) -> Pair:
    return Pair(**{"ours": lambda: ours, "published": lambda: published, "tolerance": 1e-3, **changes})


def test_times_and_ratio_are_those_of_the_clock_and_the_order_alternates():
    clock = Clock()
    pair = Pair(ours=clock.worker("a", 2.0), published=clock.worker("b", 6.0), tolerance=0.0)
    result = measure(pair, device=CPU, rounds=4, seconds=1000.0, clock=clock)
    assert (result.ours.median, result.published.median, result.ratio.median) == (2.0, 6.0, 3.0)
    assert (result.rounds, result.difference) == (4, 0.0)
    # Check and memory run both once each; then four rounds, every second one the other way round.
    assert "".join(clock.calls) == "ab" + "ab" + "ab" + "ba" + "ab" + "ba"


def test_when_time_is_up_no_round_begins_after_the_third():
    clock = Clock()
    pair = Pair(ours=clock.worker("a", 2.0), published=clock.worker("b", 6.0), tolerance=0.0)
    assert measure(pair, device=CPU, rounds=10, seconds=1.0, clock=clock).rounds == 3
    assert measure(pair, device=CPU, rounds=10, seconds=30.0, clock=clock).rounds == 4  # 8 s a round


def test_quartiles_are_interpolated():
    # Of 1, 2, 3, 4, 9: the quartiles are the second and the fourth; of 1..4 they lie between.
    assert Spread.of([9, 1, 4, 2, 3]) == Spread(3, 2, 4)
    assert Spread.of([1, 2, 3, 4]) == Spread(2.5, 1.75, 3.25)
    assert Spread.of([5.0]) == Spread(5.0, 5.0, 5.0)


def test_the_difference_is_relative_to_the_largest_number():
    # 0.004 of 8: 5e-4.
    found = check(pair_of(torch.tensor([8.0, 1.004]), torch.tensor([8.0, 1.0])))
    assert found == pytest.approx(5e-4, rel=1e-3)


@pytest.mark.parametrize(
    ("ours", "message"),
    [
        (torch.tensor([8.0, 1.1]), "differs by 0.013 of its largest number in 50.00%"),
        (torch.tensor([8.0, float("nan")]), "in 50.00%"),
        (torch.ones(3), r"shape \(3,\), expected \(2,\)"),
        ([torch.ones(2)], r"have \['result\[0\]'\], expected \['result'\]"),
    ],
)
def test_results_that_differ_are_an_error_that_says_how(ours, message):
    with pytest.raises(DisagreementError, match=message):
        check(pair_of(ours, torch.tensor([8.0, 1.0])))


def test_a_share_of_the_numbers_may_differ_where_rounding_decides():
    labels = torch.arange(1000.0)
    other = labels.clone()
    other[:2] = 7
    assert check(pair_of(other, labels, tolerance=0.0, share=2e-3)) == 0.0
    with pytest.raises(DisagreementError, match=r"0\.20%"):
        check(pair_of(other, labels, tolerance=0.0, share=1e-3))


def test_large_results_are_compared_in_parts(monkeypatch):
    monkeypatch.setattr(harness, "CHUNK", 3)
    wanted = torch.arange(1.0, 11.0)
    assert check(pair_of(wanted + 0.005 * (wanted == 10), wanted)) == pytest.approx(5e-4, rel=1e-2)
    with pytest.raises(DisagreementError, match=r"by 0\.1 of its largest number in 10\.00%"):
        check(pair_of(wanted + (wanted == 10), wanted))


def test_what_is_compared_may_be_something_else_than_what_is_timed():
    same = (lambda: torch.ones(2), lambda: torch.ones(2))
    assert check(pair_of(torch.rand(3), torch.rand(4), compare=same)) == 0.0


def test_nested_results_are_compared_by_path():
    nested = {"a": [torch.ones(1), 2.0], "b": (True,)}
    assert flatten(nested).keys() == {"result.a[0]", "result.a[1]", "result.b[0]"}


def test_flags_are_compared_like_numbers():
    flags = torch.tensor([True, False, True])
    assert check(pair_of(flags, flags.clone())) == 0.0
    with pytest.raises(DisagreementError):
        check(pair_of(flags, ~flags))
