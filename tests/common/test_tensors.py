# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Tensor functions that packages share, and embeddings of classes."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from helpers.modeling import class_embeddings, random
from torch.nn import functional as F

from cmpf.common.tensors import (
    device_constant,
    mask_pooling,
    masks_to_boxes,
    normalize_and_pad,
    resize_bilinear,
)
from cmpf.types import InstanceResult


def test_resizing_to_the_same_size_returns_the_input_itself() -> None:
    maps = random("maps", 1, 2, 3, 4)
    assert resize_bilinear(maps, (3, 4)) is maps


def test_resizing_does_not_align_corners() -> None:
    maps = torch.tensor([[[[0.0, 4.0]]]])
    # Width 2 to 4: centers lie at -0.25, 0.25, 0.75, 1.25 between the old ones: 0, 4 / 4, 4 * 3 / 4, 4.
    torch.testing.assert_close(resize_bilinear(maps, (1, 4)), torch.tensor([[[[0.0, 1.0, 3.0, 4.0]]]]))


def test_pooling_is_the_mean_inside_each_mask() -> None:
    features = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[10.0, 20.0], [30.0, 40.0]]])[None]
    masks = torch.tensor([[[5.0, -1.0], [0.1, 0.0]], [[-1.0, -1.0], [-1.0, 2.0]]])[None]
    # Mask 1 covers 1 and 3 (a logit of exactly 0 is outside): means 2 and 20. Mask 2 covers 4 and 40.
    torch.testing.assert_close(mask_pooling(features, masks), torch.tensor([[[2.0, 20.0], [4.0, 40.0]]]))


def test_pooling_agrees_with_a_loop_over_masks_of_another_size() -> None:
    features, masks = random("f", 2, 3, 5, 7), random("m", 2, 4, 9, 8)
    resized = F.interpolate(masks, size=(5, 7), mode="bilinear", align_corners=False)
    pooled = mask_pooling(features, masks)
    for image in range(2):
        for query in range(4):
            inside = resized[image, query] > 0
            torch.testing.assert_close(pooled[image, query], features[image][:, inside].mean(dim=1))


def test_an_empty_mask_pools_to_zeros_and_gives_no_nan() -> None:
    features = random("f", 1, 3, 4, 4).requires_grad_()
    pooled = mask_pooling(features, torch.full((1, 2, 4, 4), -1.0))
    assert torch.equal(pooled, torch.zeros(1, 2, 3))
    pooled.sum().backward()
    assert torch.equal(features.grad, torch.zeros_like(features))


def test_pooling_gives_masks_no_gradient() -> None:
    features, masks = random("f", 1, 3, 4, 4).requires_grad_(), random("m", 1, 2, 4, 4).requires_grad_()
    mask_pooling(features, masks).sum().backward()
    assert masks.grad is None
    assert features.grad is not None


def test_pooling_no_query_gives_no_row() -> None:
    assert mask_pooling(random("f", 1, 3, 4, 4), torch.zeros(1, 0, 4, 4)).shape == (1, 0, 3)


def test_boxes_are_tight_and_end_one_past_the_last_pixel() -> None:
    masks = torch.zeros(3, 6, 8, dtype=torch.bool)
    masks[0, 1:4, 2:7] = True  # rows 1..3, columns 2..6
    masks[1, 5, 0] = masks[1, 0, 7] = True  # opposite corners
    expected = torch.tensor([[2.0, 1.0, 7.0, 4.0], [0.0, 0.0, 8.0, 6.0], [0.0, 0.0, 0.0, 0.0]])
    assert torch.equal(masks_to_boxes(masks), expected)


def test_no_mask_has_no_box() -> None:
    assert masks_to_boxes(torch.zeros(0, 6, 8, dtype=torch.bool)).shape == (0, 4)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_images_are_normalized_before_they_are_padded_with_zeros(dtype: torch.dtype) -> None:
    small = torch.full((3, 2, 3), 30, dtype=dtype)
    large = torch.full((3, 5, 4), 50, dtype=dtype)
    mean, std = torch.tensor([10.0, 20.0, 30.0]), torch.tensor([2.0, 5.0, 10.0])
    batch, sizes = normalize_and_pad([small, large], mean=mean, std=std, divisor=4)
    assert batch.shape == (2, 3, 8, 4)  # 5 rows need 8
    assert sizes == [(2, 3), (5, 4)]
    # (30 - 10) / 2 = 10, (30 - 20) / 5 = 2, (30 - 30) / 10 = 0.
    assert batch[0, :, 1, 2].tolist() == [10.0, 2.0, 0.0]
    assert batch[1, :, 4, 3].tolist() == [20.0, 6.0, 2.0]
    assert batch[0, :, 2:].abs().max() == 0
    assert batch[0, :, :, 3:].abs().max() == 0
    assert batch[1, :, 5:].abs().max() == 0


def test_a_constant_is_made_once_for_each_type_and_can_be_trained_with_after_a_prediction() -> None:
    with torch.inference_mode():
        first = device_constant(((1, 2), (3, 4)), dtype=torch.float32, device=torch.device("cpu"))
    assert first.tolist() == [[1, 2], [3, 4]]
    assert device_constant(((1, 2), (3, 4)), dtype=torch.float32, device=torch.device("cpu")) is first
    assert (
        device_constant(((1, 2), (3, 4)), dtype=torch.int64, device=torch.device("cpu")).dtype is torch.int64
    )
    weight = torch.ones(2, 2, requires_grad=True)
    (weight * first).sum().backward()
    assert torch.equal(weight.grad, first)


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
