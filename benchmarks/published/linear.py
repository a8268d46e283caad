# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Linear layers as PyTorch computes them by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from torch import nn

from cmpf.encoders.frozen import OneDNNLinear


@contextmanager
def plain_linear() -> Iterator[None]:
    """Inside, or in a function decorated with it, CMPF's linear layers are those of PyTorch."""
    with patch.object(OneDNNLinear, "forward", nn.Linear.forward):
        yield
