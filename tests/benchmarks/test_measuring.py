# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Agreement, alternation, statistics, peak memory, and the report of a run."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL import Image

from benchmarks import harness
from benchmarks.cases.training import build_criterion
from benchmarks.counting import available_memory, count_operators, peak_memory
from benchmarks.harness import DisagreementError, Pair, Spread, check, flatten, measure
from benchmarks.report import draw_panels, exponent
from benchmarks.setting import Setting, blobs, confident, vocabulary_of
from cmpf.inference import (
    MaskRows,
    geometric_ensemble,
    instance_inference,
    panoptic_inference,
    semantic_labels,
)
from cmpf.modeling.heads import MaskFeatures, PredictionHead, class_logits

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


SETTING = Setting(torch.device("cpu"), quick=True)
SIZES = {"padded": (64, 64), "unpadded": (60, 64), "output": (45, 48)}


def heads(classes: int, queries: int) -> Callable[[], Any]:
    head = PredictionHead(dim=16, mask_dim=16, embed_dim=8)
    words, features = vocabulary_of(SETTING, classes, 8), SETTING.random(1, 16, 8, 8)
    return lambda: head.predict(*head(SETTING.random(1, queries, 16)), MaskFeatures(features), words)


def class_ensemble(classes: int, queries: int) -> Callable[[], Any]:
    words, x = vocabulary_of(SETTING, classes, 8), SETTING.random(1, queries, 8)
    decoder, seen = SETTING.random(1, queries, classes + 1), torch.ones(classes, dtype=torch.bool)
    options = {"alpha": 0.4, "beta": 0.8, "valid_BQ": None, "objectness": 0.0}
    return lambda: geometric_ensemble(decoder, class_logits(x, words, 10.0), seen, **options)


def losses(classes: int, queries: int, *, layers: int = 3, targets: int = 2) -> Callable[[], Any]:
    criterion = build_criterion(classes, points=32)
    logits = SETTING.random(2, layers, queries, classes + 1).requires_grad_()
    masks = SETTING.random(2, layers * queries, 8, 8).requires_grad_()
    truth = [{"labels": torch.arange(targets), "masks": blobs(SETTING, targets, (32, 32)) > 0}] * 2

    def run() -> None:
        parts = zip(logits.unbind(1), (masks * 1).chunk(layers, dim=1), strict=True)
        *earlier, last = ({"pred_logits": a, "pred_masks": b} for a, b in parts)
        sum(criterion({**last, "aux_outputs": earlier}, truth).values()).backward()

    return run


def semantic(classes: int, queries: int) -> Callable[[], Any]:
    weights, masks = SETTING.random(queries, classes).softmax(-1), blobs(SETTING, queries, (16, 16))
    return lambda: semantic_labels(weights, MaskRows(masks, **SIZES), output=SIZES["output"])


def panoptic(classes: int, queries: int) -> Callable[[], Any]:
    mask_cls, masks = confident(SETTING, queries, classes, count=queries), blobs(SETTING, queries, (16, 16))
    options = {"object_mask_threshold": 0.1, "overlap_threshold": 0.1}
    is_thing = torch.arange(classes) % 2 == 0
    return lambda: panoptic_inference(mask_cls, MaskRows(masks, **SIZES), is_thing=is_thing, **options)


def instance(classes: int, queries: int) -> Callable[[], Any]:
    mask_cls, masks = confident(SETTING, queries, classes, count=queries), blobs(SETTING, queries, (16, 16))
    return lambda: instance_inference(mask_cls, MaskRows(masks, **SIZES), topk=queries)


PARTS = [heads, class_ensemble, losses, semantic, panoptic, instance]


def grown(small: Counter[str], large: Counter[str]) -> dict[str, tuple[int, int]]:
    """Operators that are launched more often in the second run, with both counts."""
    return {name: (small[name], count) for name, count in large.items() if count > small[name]}


@pytest.mark.parametrize("part", PARTS)
def test_more_classes_launch_no_more_operators(part):
    assert grown(count_operators(part(10, 12)), count_operators(part(60, 12))) == {}


@pytest.mark.parametrize("part", PARTS)
def test_more_queries_launch_no_more_operators(part):
    assert grown(count_operators(part(10, 12)), count_operators(part(10, 48))) == {}


def test_more_targets_launch_no_more_operators():
    small, large = (count_operators(losses(10, 12, targets=targets)) for targets in (2, 9))
    assert grown(small, large) == {}


# Views launch nothing; the sum of all losses, which this test makes itself, adds single numbers.
NO_WORK = {"select", "as_strided", "narrow", "slice", "unsqueeze", "detach", "add"}


def test_more_heads_launch_no_more_work():
    small, large = (count_operators(losses(10, 12, layers=layers)) for layers in (3, 9))
    assert grown(small, large).keys() <= {f"aten::{name}" for name in NO_WORK}
    assert large["aten::add"] - small["aten::add"] == 3 * 6  # three losses for each of six more heads


def test_a_loop_over_classes_is_found():
    def looped(classes: int) -> Callable[[], Any]:
        return lambda: [column.max() for column in torch.ones(4, classes).unbind(1)]

    assert grown(count_operators(looped(3)), count_operators(looped(5)))["aten::max"] == (3, 5)
