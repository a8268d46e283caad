# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Tests of the Feature Injector."""

from __future__ import annotations

import torch
from helpers.modeling import fill_by_name, random
from torch import nn

from cmpf.modeling.injectors import FeatureInjector

CLIP, POSITIONS = random("clip", 2, 6, 8), random("positions", 1, 6, 8)
SAM, LEVEL = random("sam", 2, 8, 2, 3), random("level", 8)


def injector(*, in_channels: int = 8, keep_positions: bool = False) -> FeatureInjector:
    module = FeatureInjector(dim=8, heads=2, in_channels=in_channels, keep_positions=keep_positions)
    return fill_by_name(module)


def test_clip_tokens_attend_to_sam_tokens_with_positions_on_queries_and_keys() -> None:
    module = injector()
    reference = nn.MultiheadAttention(8, 2, batch_first=True)
    reference.load_state_dict(module.attention.attention.state_dict())
    tokens = SAM.flatten(2).transpose(1, 2) + LEVEL
    attended, _ = reference(CLIP + POSITIONS, tokens + POSITIONS, tokens, need_weights=False)
    keys, values = module(CLIP, POSITIONS, SAM, LEVEL)
    torch.testing.assert_close(values, module.attention.norm(CLIP + attended))
    torch.testing.assert_close(keys, values)


def test_keys_carry_positions_when_they_are_kept() -> None:
    keys, values = injector(keep_positions=True)(CLIP, POSITIONS, SAM, LEVEL)
    torch.testing.assert_close(keys, values + POSITIONS)
    torch.testing.assert_close(values, injector()(CLIP, POSITIONS, SAM, LEVEL)[1])


def test_other_widths_are_projected_and_equal_widths_are_not() -> None:
    assert isinstance(injector().input_projection, nn.Identity)
    module, sam = injector(in_channels=5), random("sam5", 2, 5, 2, 3)
    projected = module.input_projection(sam)
    assert projected.shape == (2, 8, 2, 3)
    same_width = injector()
    torch.testing.assert_close(
        module(CLIP, POSITIONS, sam, LEVEL)[1], same_width(CLIP, POSITIONS, projected, LEVEL)[1]
    )
