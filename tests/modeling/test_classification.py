# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Tests of open-vocabulary classification."""

from __future__ import annotations

import torch
from helpers.modeling import class_embeddings, generator, random
from torch import Tensor

from cmpf.modeling.heads import class_logits
from cmpf.types import ClassEmbeddings


def naive_logits(x: Tensor, embeddings: ClassEmbeddings, scale: float) -> Tensor:
    normal = x / x.norm(dim=-1, keepdim=True)
    columns = []
    for index in range(embeddings.num_classes):
        rows = embeddings.matrix[embeddings.class_of_row == index]
        columns.append((scale * normal @ rows.T).max(dim=-1).values)
    return torch.stack(columns, dim=-1)


def test_a_class_counts_as_its_best_synonym() -> None:
    matrix = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    embeddings = ClassEmbeddings(matrix=matrix, class_of_row=torch.tensor([0, 0, 1]), num_classes=2)
    # (0, 3) normalized is (0, 1). Class 0: max(0, 1) = 1; class 1: 0.8. Times 10.
    logits = class_logits(torch.tensor([[[0.0, 3.0]]]), embeddings, 10.0)
    torch.testing.assert_close(logits, torch.tensor([[[10.0, 8.0]]]))


def test_a_negative_similarity_survives_the_maximum() -> None:
    embeddings = ClassEmbeddings(
        matrix=torch.tensor([[1.0, 0.0], [0.8, 0.6]]), class_of_row=torch.tensor([0, 0]), num_classes=1
    )
    logits = class_logits(torch.tensor([[[-1.0, 0.0]]]), embeddings, 1.0)
    torch.testing.assert_close(logits, torch.tensor([[[-0.8]]]))


def test_1203_classes_agree_with_a_loop_over_classes() -> None:
    synonyms = torch.randint(1, 8, (1203,), generator=generator("synonyms")).tolist()
    embeddings = class_embeddings(*synonyms, width=16)
    x = random("x", 2, 3, 16)
    torch.testing.assert_close(class_logits(x, embeddings, 20.0), naive_logits(x, embeddings, 20.0))


def test_one_synonym_a_class_needs_no_maximum_and_agrees() -> None:
    embeddings, x = class_embeddings(1, 1, 1, 1), random("x", 2, 3, 6)
    torch.testing.assert_close(class_logits(x, embeddings, 5.0), naive_logits(x, embeddings, 5.0))


def test_the_order_of_synonyms_inside_a_class_changes_nothing() -> None:
    embeddings, x = class_embeddings(3, 1, 2), random("x", 1, 4, 6)
    order = torch.tensor([2, 0, 1, 3, 5, 4])
    shuffled = ClassEmbeddings(
        matrix=embeddings.matrix[order], class_of_row=embeddings.class_of_row, num_classes=3
    )
    torch.testing.assert_close(class_logits(x, shuffled, 7.0), class_logits(x, embeddings, 7.0))


def test_gradients_reach_the_embedding_the_scale_and_the_best_synonym_only() -> None:
    embeddings, x = class_embeddings(3, 2), random("x", 1, 1, 6).requires_grad_()
    matrix, scale = embeddings.matrix.requires_grad_(), torch.tensor(4.0, requires_grad=True)
    class_logits(x, embeddings, scale).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().max() > 0
    assert scale.grad is not None
    assert scale.grad.abs() > 0
    assert matrix.grad is not None
    assert (matrix.grad.abs().sum(dim=-1) > 0).sum() == 2  # one synonym a class


def test_autocast_keeps_the_logits_in_full_precision() -> None:
    embeddings, x = class_embeddings(3, 2), random("x", 1, 4, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = class_logits(x, embeddings, 100.0)
    torch.testing.assert_close(logits, naive_logits(x, embeddings, 100.0))
