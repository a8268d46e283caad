# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Attention, feed-forward layers, convolutions and sine positions."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.modeling import fill_by_name, random
from torch import nn
from torch.nn import functional as F

from cmpf.errors import ConfigError
from cmpf.modeling.layers import (
    MLP,
    AttentionLayer,
    FeedForwardLayer,
    MultiheadAttention,
    conv_norm,
    conv_xavier,
    sine_position_encoding,
)


def test_agrees_with_torch_under_the_same_parameter_names() -> None:
    own = fill_by_name(MultiheadAttention(dim=12, heads=3))
    reference = nn.MultiheadAttention(12, 3, batch_first=True)
    reference.load_state_dict(own.state_dict())
    query, key, value = random("q", 2, 4, 12), random("k", 2, 7, 12), random("v", 2, 7, 12)
    attend = random("mask", 2, 4, 7) > 0
    attend[..., 0] = True
    expected, _ = reference(
        query, key, value, attn_mask=~attend.repeat_interleave(3, dim=0), need_weights=False
    )
    torch.testing.assert_close(own(query, key, value, attend), expected)
    expected, _ = reference(query, key, value, need_weights=False)
    torch.testing.assert_close(own(query, key, value), expected)


def test_what_a_query_may_not_read_has_no_influence() -> None:
    attention = fill_by_name(MultiheadAttention(dim=8, heads=2))
    query, tokens = random("q", 1, 2, 8), random("k", 1, 3, 8)
    attend = torch.tensor([[[True, False, True], [True, True, True]]])
    changed = tokens.clone()
    changed[0, 1] += 5.0
    before, after = attention(query, tokens, tokens, attend), attention(query, changed, changed, attend)
    torch.testing.assert_close(before[0, 0], after[0, 0])
    assert (before[0, 1] - after[0, 1]).abs().max() > 0.1


def test_a_width_that_the_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(ConfigError, match="width 10 with 4 heads"):
        MultiheadAttention(dim=10, heads=4)


def test_attention_positions_reach_queries_only() -> None:
    layer = fill_by_name(AttentionLayer(dim=8, heads=2))
    x, positions = random("x", 2, 3, 8), random("p", 1, 3, 8)
    keys, values = random("k", 2, 5, 8), random("v", 2, 5, 8)
    expected = layer.norm(x + layer.attention(x + positions, keys, values))
    torch.testing.assert_close(layer(x, positions_BQD=positions, keys_BLD=keys, values_BLD=values), expected)


def test_feed_forward_normalizes_after_the_residual() -> None:
    layer = FeedForwardLayer(dim=2, hidden_dim=3)
    with torch.no_grad():
        layer.linear2.weight.zero_()
        layer.linear2.bias.copy_(torch.tensor([1.0, 1.0]))
    # Residual: [1, 5] + [1, 1] = [2, 6]; mean 4, deviation 2 -> [-1, 1].
    torch.testing.assert_close(layer(torch.tensor([[[1.0, 5.0]]])), torch.tensor([[[-1.0, 1.0]]]))


def test_mlp_has_no_relu_at_its_end() -> None:
    mlp = fill_by_name(MLP(dims=(4, 6, 6, 3)))
    x = random("x", 2, 4)
    hidden = F.relu(mlp.layers[1](F.relu(mlp.layers[0](x))))
    torch.testing.assert_close(mlp(x), mlp.layers[2](hidden))
    assert (mlp(x) < 0).any()


def test_a_convolution_starts_xavier_uniform_with_zero_bias() -> None:
    conv = conv_xavier(64, 32, kernel=3)
    bound = math.sqrt(6 / (9 * (64 + 32)))
    assert conv.weight.abs().max() <= bound
    assert conv.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert conv.bias is not None
    assert conv.bias.abs().max() == 0


def test_stride_two_halves_the_map_and_the_bias_is_optional() -> None:
    block = conv_norm(3, 8, kernel=3, stride=2, groups=4, bias=False)
    assert block(random("x", 1, 3, 10, 13)).shape == (1, 8, 5, 7)
    assert block[0].bias is None


def test_groups_that_do_not_divide_the_channels_are_refused() -> None:
    with pytest.raises(ConfigError, match="10 channels in 4 groups"):
        conv_norm(3, 10, kernel=1, groups=4)


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
