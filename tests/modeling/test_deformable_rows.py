# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Deformable attention by rows of a table, and when it is taken; agreement with a loop is in test_deformable.py."""

from __future__ import annotations

import pytest
import torch
from helpers.modeling import random
from torch import Tensor

from cmpf.modeling.deformable import ops
from cmpf.modeling.deformable.ops import (
    AttentionFunction,
    deformable_attention,
    gather_attention,
    grid_sample_attention,
    rows_attention,
)
from cmpf.modeling.layers import softmax_of_few

SHAPES = [(2, 3), (4, 6), (5, 7)]  # 6 + 24 + 35 = 65 places


def inputs(
    *, images: int = 3, queries: int = 7, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    """2 heads of 4 numbers, 2 points; places uniform over -0.2..1.2."""
    value = random("value", images, 65, 2, 4)
    locations = random("locations", images, queries, 2, 3, 2, 2).sigmoid() * 1.4 - 0.2
    weights = random("weights", images, queries, 2, 6).softmax(-1).view(images, queries, 2, 3, 2)
    return value.to(dtype), locations.to(dtype), weights.to(dtype)


@pytest.mark.parametrize("points", [1, 12 * 3, 12 * 7, 12 * 16, 1 << 17])
def test_parts_of_any_size_give_the_same(points: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # A query has 2 * 3 * 2 = 12 points: one query, 3 of 7, an image, 2 of 3 images, all at a time.
    monkeypatch.setattr(ops, "POINTS", points)
    value, locations, weights = inputs()
    expected = grid_sample_attention(value, SHAPES, locations, weights)
    torch.testing.assert_close(rows_attention(value, SHAPES, locations, weights), expected)


def test_float32_is_as_close_to_float64_as_grid_sample() -> None:
    exact = grid_sample_attention(*_arguments(inputs(queries=300)))
    tensors = _arguments(inputs(queries=300, dtype=torch.float32))
    errors = [float((f(*tensors) - exact).abs().max()) for f in (rows_attention, grid_sample_attention)]
    assert errors[0] <= 1.5 * errors[1] < 1e-5


@pytest.mark.parametrize("attention", [gather_attention, rows_attention])
def test_borders_corners_and_what_lies_outside_read_as_grid_sample_does(attention: AttentionFunction) -> None:
    value = random("value", 1, 6, 1, 4).double()
    axis = torch.tensor([-5.0, -0.25, -1e-9, 0.0, 1e-9, 0.1, 0.5, 0.9, 1.0, 1.0 + 1e-9, 1.25, 7.0, torch.inf])
    places = torch.cartesian_prod(axis, axis).double().view(1, -1, 1, 1, 1, 2)
    weights = torch.ones(places.shape[:-1], dtype=torch.float64)
    finite = places.clamp(-10, 10)
    expected = grid_sample_attention(value, [(2, 3)], finite, weights)
    torch.testing.assert_close(attention(value, [(2, 3)], places, weights), expected)


def test_a_place_that_is_no_number_reads_zeros_and_spoils_nothing_else() -> None:
    value, locations, weights = inputs()
    expected = rows_attention(value, SHAPES, locations, weights)
    locations[1, 2] = torch.nan
    found = rows_attention(value, SHAPES, locations, weights)
    assert found[1, 2].abs().max() == 0
    found[1, 2] = expected[1, 2]
    assert torch.equal(found, expected)


def test_no_queries_and_no_images_give_nothing() -> None:
    for images, queries in ((2, 0), (0, 3)):
        value, locations, weights = inputs(images=images, queries=queries)
        assert rows_attention(value, SHAPES, locations, weights).shape == (images, queries, 8)


def test_rows_are_read_on_a_cpu_in_inference_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    for name in ("rows_attention", "grid_sample_attention"):
        monkeypatch.setattr(ops, name, lambda value, *_, name=name: taken.append(name) or value)
    value, locations, weights = inputs(images=1, dtype=torch.float32)
    deformable_attention(value, SHAPES, locations, weights)
    weights.requires_grad_()
    with torch.no_grad():
        deformable_attention(value, SHAPES, locations, weights)
    deformable_attention(value, SHAPES, locations, weights)
    with torch.no_grad():
        deformable_attention(value.bfloat16(), SHAPES, locations, weights)
        deformable_attention(value.to("meta"), SHAPES, locations.to("meta"), weights.to("meta"))
        monkeypatch.setattr(ops, "EXACT", 2 * ops._layout(tuple(SHAPES)).rows)
        deformable_attention(value, SHAPES, locations, weights)
    assert taken == ["rows_attention"] * 2 + ["grid_sample_attention"] * 4


def test_what_a_prediction_made_serves_training_too() -> None:
    ops._constants.cache_clear()
    value, locations, weights = inputs()
    with torch.inference_mode():
        deformable_attention(value, SHAPES, locations, weights)
    assert not any(tensor.is_inference() for tensor in ops._constants(tuple(SHAPES), 2, 2, torch.float64))


def test_softmax_of_few_numbers_is_the_softmax() -> None:
    x = random("x", 3, 5, 2, 12).double().requires_grad_()
    direction = random("direction", 3, 5, 2, 12).double()
    found, expected = softmax_of_few(x), x.softmax(-1)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad((y * direction).sum(), x)[0] for y in (found, expected)]
    torch.testing.assert_close(*gradients)


def _arguments(
    tensors: tuple[Tensor, Tensor, Tensor],
) -> tuple[Tensor, list[tuple[int, int]], Tensor, Tensor]:
    return tensors[0], SHAPES, tensors[1], tensors[2]
