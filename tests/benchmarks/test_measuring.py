# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Agreement, alternation, statistics, peak memory, and the report of a run."""

from __future__ import annotations

import sys

import pytest
import torch
from PIL import Image

from benchmarks import harness
from benchmarks.counting import available_memory, peak_memory
from benchmarks.harness import DisagreementError, Pair, Spread, check, flatten, measure
from benchmarks.report import draw_panels, exponent

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


CPU = torch.device("cpu")


def test_the_peak_is_what_lived_at_one_time():
    def work() -> torch.Tensor:
        a = torch.ones(1000, 1000)  # 4 MB
        b = a * 2  # 8 MB
        del a
        c = b + 1  # 8 MB again
        del b
        return c

    assert 8e6 <= peak_memory(work, CPU) < 8.1e6


def test_what_was_there_before_does_not_count():
    before = torch.ones(1000, 1000)
    assert peak_memory(lambda: before.add_(1), CPU) < 1e5


def test_free_memory_is_a_sensible_number():
    assert 1e6 < available_memory(CPU) <= sys.maxsize


def test_the_exponent_is_the_slope_in_logarithms():
    assert exponent([(1, 3), (2, 12), (4, 48)]) == pytest.approx(2)  # 3 x squared
    assert exponent([(1, 5), (10, 5)]) == pytest.approx(0)


def test_panels_stand_in_rows_and_hold_their_lines(tmp_path):
    line = [(1.0, 0.001), (10.0, 0.1), (100.0, 2.0)]
    draw_panels(
        tmp_path / "a.png",
        {"one": {"ours": line}, "two": {"ours": line, "theirs": line[:2]}, "three": {"x": line}},
    )
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (920, 680)
        quarters = [image.crop((x, y, x + 460, y + 340)) for y in (0, 340) for x in (0, 460)]
    colors = [len(quarter.getcolors(maxcolors=10**6)) for quarter in quarters]
    assert min(colors[:3]) > 5
    assert colors[3] == 1  # the place of a fourth panel is empty
