# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Both injectors."""

from __future__ import annotations

import torch
from helpers.modeling import fill_by_name, random
from torch import nn

from cmpf.modeling.injectors import FeatureInjector, QueryInjector

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


def test_a_query_receives_the_mean_of_sam_inside_its_mask() -> None:
    injector = QueryInjector(projection=nn.Identity(), in_channels=1, dim=1)
    sam = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).view(1, 1, 2, 2)
    masks = torch.tensor([[[1.0, 1.0], [-1.0, -1.0]], [[-1.0, -1.0], [-1.0, 9.0]]]).view(1, 2, 2, 2)
    # First mask covers 1 and 2, mean 1.5; the second covers 4.
    queries = torch.tensor([[[10.0], [20.0]]])
    torch.testing.assert_close(injector(queries, masks, sam), torch.tensor([[[11.5], [24.0]]]))


def test_an_empty_mask_adds_the_projection_of_zeros() -> None:
    projection = fill_by_name(nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4)))
    injector = QueryInjector(projection=projection, in_channels=4, dim=4)
    queries = random("q", 1, 2, 4)
    injected = injector(queries, torch.full((1, 2, 3, 3), -1.0), random("sam", 1, 4, 3, 3))
    torch.testing.assert_close(injected, queries + projection(torch.zeros(4)))


def test_masks_of_another_size_are_resized_to_the_embedding() -> None:
    injector = QueryInjector(projection=nn.Identity(), in_channels=4, dim=4)
    queries, sam, masks = random("q", 1, 2, 4), random("sam", 1, 4, 6, 6), random("m", 1, 2, 5, 7)
    resized = nn.functional.interpolate(masks, size=(6, 6), mode="bilinear", align_corners=False)
    torch.testing.assert_close(injector(queries, masks, sam), injector(queries, resized, sam))


def test_other_widths_are_brought_to_the_projection_by_a_convolution() -> None:
    injector = QueryInjector(projection=nn.Identity(), in_channels=6, dim=4)
    assert injector(random("q", 1, 2, 4), random("m", 1, 2, 5, 5), random("sam", 1, 6, 5, 5)).shape == (
        1,
        2,
        4,
    )
    assert [name for name, _ in injector.named_parameters()] == [
        "input_projection.weight",
        "input_projection.bias",
    ]


def test_the_shared_projection_is_named_once_in_a_state_dict() -> None:
    injector = QueryInjector(projection=nn.Linear(4, 4), in_channels=4, dim=4)
    assert injector.state_dict() == {}


def test_masks_receive_no_gradient() -> None:
    injector = QueryInjector(projection=nn.Linear(4, 4), in_channels=4, dim=4)
    queries, masks = random("q", 1, 2, 4).requires_grad_(), random("m", 1, 2, 5, 5).requires_grad_()
    injector(queries, masks, random("sam", 1, 4, 5, 5)).sum().backward()
    assert masks.grad is None
    assert queries.grad is not None
