# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import pytest
from helpers.tiny_model import tiny_config

from cmpf.factory import workers
from cmpf.factory.workers import loader_workers


@pytest.mark.parametrize(
    ("device", "cores", "processes", "expected"),
    [
        ("cuda", 16, 1, 8),  # enough
        ("cuda", 64, 16, 3),  # 64 / 16 = 4 cores a process, one of them for the process itself
        ("cuda", 1, 1, 0),
        ("cuda", 4, 8, 0),  # more processes than cores
        ("cpu", 16, 1, 1),
        ("cpu", 1, 1, 0),
    ],
)
def test_minus_one_shares_out_the_cores(
    device: str, cores: int, processes: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "usable_cores", lambda: cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    cfg = tiny_config(overrides=["DATALOADER.NUM_WORKERS", -1, "MODEL.DEVICE", device])
    assert loader_workers(cfg) == expected


def test_a_given_number_is_taken() -> None:
    assert loader_workers(tiny_config(overrides=["DATALOADER.NUM_WORKERS", 5])) == 5
