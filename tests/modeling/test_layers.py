# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Tests of the layers that the decoders share."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.modeling import fill_by_name, random
from torch.nn import functional as F

from cmpf.errors import ConfigError
from cmpf.modeling.layers import MLP, AttentionLayer, FeedForwardLayer, conv_norm, conv_xavier


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
