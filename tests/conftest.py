# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Tests see no network, no cache of the user's, and one CPU thread each."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
OURS = (
    "CMPF",
    "DETECTRON2_DATASETS",
    "HF_HUB_OFFLINE",
    "OMP_",
)  # libraries set others when they are imported


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """One cache folder for all tests of a process, so that each vocabulary is encoded once."""
    folder: Path = tmp_path_factory.mktemp("cache")
    os.environ["CMPF_CACHE"] = str(folder)


def _process_state() -> dict[str, Any]:
    """What a test may change for the time that it takes, and other tests' results depend on."""
    state: dict[str, Any] = {name: value for name, value in os.environ.items() if name.startswith(OURS)}
    state["working directory"] = os.getcwd()
    if torch := sys.modules.get("torch"):
        state["default dtype"] = torch.get_default_dtype()
        state["gradients"] = torch.is_grad_enabled()
    return state


@pytest.fixture(autouse=True)
def _process_stays_as_it_was() -> Iterator[None]:
    """Fails the test that leaves the process changed, and not another one that would have to find out why.

    The number of threads is set back: a command sets its own, which is its right in its own process.
    """
    before = _process_state()
    yield
    after = _process_state()
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
    if "default dtype" not in before:  # torch came with this test
        after = {name: value for name, value in after.items() if name in before or name.startswith(OURS)}
    assert after == before
