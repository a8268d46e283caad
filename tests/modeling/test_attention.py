# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Tests of multi-head attention."""

from __future__ import annotations

import pytest
import torch
from helpers.modeling import fill_by_name, random
from torch import nn

from cmpf.errors import ConfigError
from cmpf.modeling.layers import MultiheadAttention


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
