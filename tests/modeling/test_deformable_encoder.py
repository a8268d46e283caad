# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Tests of the deformable encoder."""

from __future__ import annotations

import pytest
import torch
from helpers.modeling import fill_by_name, random
from torch import Tensor

from cmpf.modeling.deformable.encoder import DeformableEncoder, pixel_centers
from cmpf.modeling.layers import sine_position_encoding


def test_pixel_centers_run_row_by_row_with_x_first() -> None:
    # Width 2: centers at 1/4 and 3/4; height 1: center at 1/2.
    torch.testing.assert_close(pixel_centers(1, 2), torch.tensor([[0.25, 0.5], [0.75, 0.5]]))
    torch.testing.assert_close(pixel_centers(2, 1), torch.tensor([[0.5, 0.25], [0.5, 0.75]]))


def test_one_layer_is_attention_and_feed_forward_with_positions_on_queries_only() -> None:
    encoder = fill_by_name(DeformableEncoder(dim=8, heads=2, points=2, levels=2, layers=1, ffn_dim=12))
    maps = [random("a", 2, 8, 2, 3), random("b", 2, 8, 4, 6)]
    shapes = [(2, 3), (4, 6)]
    x = torch.cat([m.flatten(2) for m in maps], dim=2).transpose(1, 2)
    positions = torch.cat(
        [
            sine_position_encoding(h, w, 8, device="cpu", dtype=torch.float32).flatten(2).transpose(1, 2)
            + encoder.level_embedding[level]
            for level, (h, w) in enumerate(shapes)
        ],
        dim=1,
    )
    points = torch.cat([pixel_centers(h, w) for h, w in shapes])[None]
    layer = encoder.layers[0]
    attended = layer.attention(x + positions, points, x, shapes, torch.tensor([[3.0, 2.0], [6.0, 4.0]]))
    expected = layer.feed_forward(layer.norm(x + attended)).transpose(1, 2)
    first, second = encoder(maps)
    torch.testing.assert_close(first, expected[..., :6].reshape(2, 8, 2, 3))
    torch.testing.assert_close(second, expected[..., 6:].reshape(2, 8, 4, 6))


def test_a_batch_of_two_equals_two_batches_of_one() -> None:
    encoder = fill_by_name(DeformableEncoder(dim=8, heads=2, points=2, levels=1, layers=2, ffn_dim=12))
    maps = random("a", 2, 8, 3, 5)
    both = encoder([maps])[0]
    alone = torch.cat([encoder([maps[:1]])[0], encoder([maps[1:]])[0]])
    torch.testing.assert_close(both, alone)


def test_flat_levels_bring_as_many_level_embeddings() -> None:
    encoder = DeformableEncoder(dim=8, heads=2, points=2, levels=1, layers=1, ffn_dim=12, flat_levels=3)
    assert encoder.level_embedding.shape == (3, 8)
    assert encoder([random("a", 1, 8, 3, 5)])[0].shape == (1, 8, 3, 5)


def test_recomputing_keeps_less_and_changes_no_gradient() -> None:
    kept, gradients = [], []
    for recompute in (False, True):
        encoder = fill_by_name(
            DeformableEncoder(dim=8, heads=2, points=2, levels=2, layers=3, ffn_dim=32, recompute=recompute)
        )
        maps = [random("a", 2, 8, 4, 6).requires_grad_(), random("b", 2, 8, 8, 12).requires_grad_()]
        saved: dict[int, int] = {}

        def pack(tensor: Tensor, saved: dict[int, int] = saved) -> Tensor:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            found = encoder(maps)
            kept.append(sum(saved.values()))
        (found[0].square().sum() + found[1].sum()).backward()
        gradients.append([*(m.grad for m in maps), *(p.grad for p in encoder.parameters())])
    assert kept[1] < kept[0] / 3
    for ours, expected in zip(gradients[1], gradients[0], strict=True):
        assert torch.equal(ours, expected)


def test_without_gradients_nothing_is_recomputed(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = DeformableEncoder(dim=8, heads=2, points=2, levels=1, layers=1, ffn_dim=12, recompute=True)
    monkeypatch.setattr("cmpf.modeling.deformable.encoder.checkpoint", None)
    with torch.no_grad():
        assert encoder([random("a", 1, 8, 3, 5)])[0].shape == (1, 8, 3, 5)
