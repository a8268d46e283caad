# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Tests of the dataclasses that travel between the packages."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from helpers.modeling import class_embeddings, random

from cmpf.types import InstanceResult


def test_void_becomes_the_last_class() -> None:
    embeddings, void = class_embeddings(2, 1), random("void", 1, 6)
    extended = embeddings.with_void(void)
    assert extended.num_classes == 3
    assert extended.class_of_row.tolist() == [0, 0, 1, 2]
    assert torch.equal(extended.matrix, torch.cat([embeddings.matrix, void]))
    assert embeddings.num_classes == 2  # the vocabulary itself is unchanged


def test_a_learned_void_receives_gradient() -> None:
    void = random("void", 1, 6).requires_grad_()
    class_embeddings(2, 1).with_void(void).matrix.sum().backward()
    assert torch.equal(void.grad, torch.ones(1, 6))


def test_embeddings_move_to_a_device_as_a_whole() -> None:
    moved = class_embeddings(2, 1).to("meta")
    assert moved.matrix.device.type == "meta"
    assert moved.class_of_row.device.type == "meta"
    assert moved.num_classes == 2


def test_embeddings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        class_embeddings(1).num_classes = 5  # type: ignore[misc]


def test_the_length_of_a_result_is_its_number_of_instances() -> None:
    result = InstanceResult(
        pred_masks=torch.zeros(3, 4, 5, dtype=torch.bool),
        pred_boxes=torch.zeros(3, 4),
        scores=torch.zeros(3),
        pred_classes=torch.zeros(3, dtype=torch.int64),
    )
    assert len(result) == 3
