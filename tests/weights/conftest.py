# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from pathlib import Path

import pytest
from helpers.toy_training import WeightsToy

from cmpf.weights import save


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Weights of a small module in our own format."""
    path = tmp_path / "model.safetensors"
    save(WeightsToy(), path, metadata={})
    return path
