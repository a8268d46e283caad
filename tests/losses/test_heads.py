# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Heads as one tensor."""

from __future__ import annotations

import pytest
import torch

from cmpf.losses.heads import stack_heads


def parts(batch: int = 2, *, product: torch.Tensor | None = None) -> list[torch.Tensor]:
    """Three heads of four queries, handed out as the transformer decoder does."""
    whole = torch.randn(batch, 12, 30) if product is None else product
    return list(whole.view(batch, 12, 5, 6).chunk(3, dim=1))


@pytest.mark.parametrize("batch", [1, 2])
def test_parts_of_one_tensor_become_that_tensor_again(batch):
    product = torch.randn(batch, 12, 30, requires_grad=True) * 1
    heads = parts(batch, product=product)
    stacked = stack_heads(heads)
    assert torch.equal(stacked, torch.stack(heads, dim=1))
    assert stacked.data_ptr() == product.data_ptr()


def test_gradients_are_those_of_a_copy():
    direction = torch.randn(2, 3, 4, 5, 6)
    gradients = []
    for stack in (stack_heads, lambda heads: torch.stack(heads, dim=1)):
        leaf = torch.ones(2, 12, 30, requires_grad=True)
        heads = parts(product=leaf * 2)
        ((stack(heads) ** 2 * direction).sum() + heads[0].sum()).backward()
        gradients.append(leaf.grad)
    assert torch.equal(*gradients)


@pytest.mark.parametrize(
    "heads",
    [
        [torch.randn(2, 4, 5, 6) for _ in range(3)],
        parts()[::-1],
        parts()[:2],
        [*parts()[:2], parts()[2]],
        [parts()[0]] * 3,
        [head * 2 for head in parts()],
        list(torch.randn(2, 12, 6, 5).transpose(2, 3).chunk(3, dim=1)),
    ],
    ids=["unrelated", "reversed", "some", "another's", "the same", "computed", "transposed"],
)
def test_anything_else_is_copied_in_the_given_order(heads):
    assert torch.equal(stack_heads(heads), torch.stack(heads, dim=1))
