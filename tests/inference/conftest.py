# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from helpers.predictions import garden
from torch import Tensor

from cmpf.inference import Prediction
from cmpf.inference.resize import MaskRows


@pytest.fixture
def prediction() -> Prediction:
    """The garden, see there."""
    return garden()


@pytest.fixture
def run_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[range]]:
    """Lets the next resizing of mask rows run out of memory; returns the rows asked for from then on."""

    def start() -> list[range]:
        plain, calls = MaskRows.rows, []

        def rows(self: MaskRows, wanted: range) -> Tensor:
            calls.append(wanted)
            if len(calls) == 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return plain(self, wanted)

        monkeypatch.setattr(MaskRows, "rows", rows)
        return calls

    return start
