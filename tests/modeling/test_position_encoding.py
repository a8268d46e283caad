# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Tests of the sine position encoding."""

from __future__ import annotations

import math

import pytest
import torch

from cmpf.errors import ConfigError
from cmpf.modeling.layers import sine_position_encoding


def test_agrees_with_a_loop_over_channels() -> None:
    height, width, channels = 3, 5, 12
    encoded = sine_position_encoding(height, width, channels, device="cpu", dtype=torch.float32)
    for row in range(height):
        for column in range(width):
            y = (row + 1) / (height + 1e-6) * 2 * math.pi
            x = (column + 1) / (width + 1e-6) * 2 * math.pi
            expected = []
            for angle in (y, x):  # y first
                for pair in range(channels // 4):
                    frequency = 10000 ** (2 * pair / (channels // 2))
                    expected += [math.sin(angle / frequency), math.cos(angle / frequency)]
            torch.testing.assert_close(encoded[0, :, row, column], torch.tensor(expected), atol=1e-5, rtol=0)


def test_the_last_row_and_column_complete_the_circle() -> None:
    encoded = sine_position_encoding(4, 4, 4, device="cpu", dtype=torch.float32)
    # Row 4 of 4: angle 2 pi, sine 0, cosine 1; row 2 of 4: angle pi, sine 0, cosine -1.
    torch.testing.assert_close(encoded[0, :2, 3, 0], torch.tensor([0.0, 1.0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(encoded[0, :2, 1, 0], torch.tensor([0.0, -1.0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(encoded[0, 2:, 0, 3], torch.tensor([0.0, 1.0]), atol=1e-5, rtol=0)


def test_the_wanted_precision_is_returned() -> None:
    encoded = sine_position_encoding(2, 3, 8, device="cpu", dtype=torch.float64)
    assert encoded.dtype == torch.float64
    assert encoded.shape == (1, 8, 2, 3)


def test_channels_that_cannot_be_shared_between_axes_are_refused() -> None:
    with pytest.raises(ConfigError, match="6 channels: use a multiple of 4"):
        sine_position_encoding(2, 2, 6, device="cpu", dtype=torch.float32)
