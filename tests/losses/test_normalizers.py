# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cmpf.losses import normalizers as module
from cmpf.losses.normalizers import normalizers
from cmpf.types import Targets


def targets_of(*counts: int) -> list[Targets]:
    return [
        {"labels": torch.zeros(n, dtype=torch.int64), "masks": torch.zeros(n, 2, 2, dtype=torch.bool)}
        for n in counts
    ]


def values(targets: list[Targets], *, queries: int = 5) -> tuple[float, float]:
    found = normalizers(targets, queries=queries, no_object_weight=0.1, device=torch.device("cpu"))
    return found.targets.item(), found.class_weight.item()


def test_targets_are_counted_and_queries_weighted_by_what_they_are_matched_with() -> None:
    # 3 matched queries of weight 1, and 2 * 5 - 3 = 7 of weight 0.1
    assert values(targets_of(2, 1)) == pytest.approx((3, 3.7))


def test_no_more_targets_than_queries_are_matched_but_all_are_counted() -> None:
    # 2 queries and 4 targets: both queries matched; the other image's 2 queries are void: 2 + 0.2
    assert values(targets_of(4, 0), queries=2) == pytest.approx((4, 2.2))


def test_a_batch_without_targets_divides_by_one() -> None:
    assert values(targets_of(0)) == pytest.approx((1, 0.5))


def test_both_are_means_over_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    def all_reduce(sums: Tensor) -> None:
        sums += torch.tensor([6.0, 6.5])  # what another process has

    monkeypatch.setattr(module.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(module.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(module.dist, "all_reduce", all_reduce)
    # (2 + 6) / 2 targets; (2 + 3 * 0.1 + 6.5) / 2
    assert values(targets_of(2)) == pytest.approx((4, 4.4))
