# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Tests see no network, no cache of the user's, and one CPU thread each."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """One cache folder for all tests of a process, so that each vocabulary is encoded once."""
    folder: Path = tmp_path_factory.mktemp("cache")
    os.environ["CMPF_CACHE"] = str(folder)
