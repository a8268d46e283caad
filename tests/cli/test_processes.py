# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import argparse
import os
from typing import Any

import pytest
import torch
from helpers.tiny_model import tiny_config

from cmpf.cli import processes
from cmpf.cli.processes import device_overrides, in_processes, process_flags
from cmpf.errors import ConfigError


def given(**changes: Any) -> argparse.Namespace:
    usual = {
        "num_gpus": None,
        "num_processes": None,
        "num_machines": 1,
        "machine_rank": 0,
        "dist_url": "auto",
    }
    return argparse.Namespace(**(usual | changes))


@pytest.mark.parametrize(
    ("arguments", "device"),
    [
        ({}, []),
        ({"num_gpus": 0}, ["MODEL.DEVICE", "cpu"]),
        ({"num_gpus": 2}, ["MODEL.DEVICE", "cuda"]),
        ({"num_processes": 2}, ["MODEL.DEVICE", "cpu"]),
        ({"num_processes": 2, "num_gpus": 0}, ["MODEL.DEVICE", "cpu"]),
    ],
)
def test_the_options_choose_the_device(
    arguments: dict[str, int], device: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_overrides(given(**arguments)) == device


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_gpus": 3}, "--num-gpus 3: 2 CUDA devices are here; use --num-gpus 0 for the CPU"),
        ({"num_gpus": 2, "num_processes": 2}, "--num-processes 2 is for the CPU, and --num-gpus 2 already"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    arguments: dict[str, int], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match=message):
        device_overrides(given(**arguments))


def test_the_options_are_repeated_as_far_as_they_were_given() -> None:
    assert process_flags(given()) == []
    several = given(num_gpus=4, num_machines=2, machine_rank=1, dist_url="tcp://a:1")
    assert process_flags(several) == [
        *("--num-gpus", "4", "--num-machines", "2", "--machine-rank", "1", "--dist-url", "tcp://a:1")
    ]


@pytest.mark.parametrize(("arguments", "count"), [({}, 1), ({"num_processes": 3}, 3), ({"num_gpus": 0}, 1)])
def test_as_many_processes_are_launched_as_asked_for(
    arguments: dict[str, int], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched: list[dict[str, Any]] = []
    monkeypatch.setattr(processes, "launch", lambda function, **how: launched.append(how) or 0)
    cfg = tiny_config()
    assert in_processes(os.getpid, given(**arguments), cfg) == 0  # type: ignore[arg-type]
    assert (launched[0]["num_processes"], launched[0]["device"]) == (count, "cpu")
    assert launched[0]["args"][1] is cfg
