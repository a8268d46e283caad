# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import pytest
from helpers.predictions import garden

from cmpf.inference import Prediction


@pytest.fixture
def prediction() -> Prediction:
    """The garden, see there."""
    return garden()
