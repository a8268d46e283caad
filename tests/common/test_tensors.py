# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Small functions on tensors and on binary masks."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from helpers.modeling import class_embeddings, random
from numpy.typing import NDArray
from scipy import ndimage
from torch.nn import functional as F

from cmpf.common.regions import remove_islands, remove_small_regions
from cmpf.common.tensors import (
    device_constant,
    find_device,
    mask_pooling,
    masks_to_boxes,
    normalize_and_pad,
    resize_bilinear,
)
from cmpf.types import InstanceResult


@pytest.mark.parametrize(("cuda", "device"), [(True, "cuda"), (False, "cpu")])
def test_the_automatic_device_is_cuda_if_there_is_one(
    cuda: bool, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    assert find_device("auto") == torch.device(device)
    assert find_device("cpu").type == "cpu"
    assert find_device("cuda:1") == torch.device("cuda", 1)


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


def cleaned(given: NDArray[np.bool_], *, min_area: float) -> NDArray[np.bool_]:
    """One mask between two others, which must not touch it."""
    three = np.stack([np.ones_like(given), given, ~given])
    return remove_small_regions(three, min_area=min_area)[1]


def mask(*rows: str) -> NDArray[np.bool_]:
    return np.array([[character == "#" for character in row] for row in rows])


def plain_rule(given: NDArray[np.bool_], min_area: int) -> NDArray[np.bool_]:
    """segment-anything's rule, region by region on the full image."""
    result = given.copy()
    labels, count = ndimage.label(~result, structure=np.ones((3, 3)))
    for region in range(1, count + 1):
        if (labels == region).sum() < min_area:
            result[labels == region] = True
    labels, count = ndimage.label(result, structure=np.ones((3, 3)))
    areas = [(labels == region).sum() for region in range(1, count + 1)]
    kept = [index for index, area in enumerate(areas) if area >= min_area] or [int(np.argmax(areas))]
    return np.isin(labels, [index + 1 for index in kept])


def test_a_small_hole_is_filled_and_a_small_island_goes() -> None:
    given = mask(
        "........",
        ".####...",
        ".#.##..#",
        ".####...",
        "........",
    )
    expected = mask(
        "........",
        ".####...",
        ".####...",
        ".####...",
        "........",
    )
    assert (cleaned(given, min_area=2) == expected).all()


def test_regions_of_just_the_least_area_stay() -> None:
    given = mask("##..####", "....#..#", "....####")  # an island and a hole of 2 pixels
    assert (cleaned(given, min_area=2) == given).all()
    assert cleaned(given, min_area=3).sum() == 12  # 3 x 4 filled, island gone


def test_regions_that_touch_at_a_corner_are_one() -> None:
    given = mask("##......", "##......", "..##....", "..##....")
    assert (cleaned(given, min_area=8) == given).all()


def test_the_largest_of_small_islands_stays() -> None:
    given = mask("##......", "......#.", "......#.", "......#.")
    expected = mask("........", "......#.", "......#.", "......#.")
    assert (cleaned(given, min_area=5) == expected).all()


def test_zero_area_empty_and_full_masks_are_left_alone() -> None:
    given = mask("#.#", "...")
    assert (cleaned(given, min_area=0) == given).all()
    assert not cleaned(np.zeros((3, 4), dtype=bool), min_area=5).any()
    assert cleaned(np.ones((3, 4), dtype=bool), min_area=5).all()


def test_a_small_background_around_the_mask_is_filled_to_the_edge() -> None:
    given = np.zeros((4, 6), dtype=bool)
    given[1:3, 1:5] = True  # 24 - 8 = 16 pixels of background in one ring
    assert (cleaned(given, min_area=16) == given).all()
    assert cleaned(given, min_area=17).all()


@pytest.mark.parametrize("seed", range(40))
def test_random_masks_agree_with_the_rule_on_the_full_image(seed: int) -> None:
    generator = np.random.default_rng(seed)
    given = np.zeros((30, 26), dtype=bool)
    y0, x0 = generator.integers(0, 20, 2)
    height, width = generator.integers(1, 12, 2)
    part = generator.random((height, width)) < generator.uniform(0.2, 0.95)
    given[y0 : y0 + height, x0 : x0 + width] = part[: 30 - y0, : 26 - x0]
    if not given.any():
        given[y0, x0] = True
    before = given.copy()
    for min_area in (1, 3, 10, 300, 900):
        assert (cleaned(given, min_area=min_area) == plain_rule(given, min_area)).all()
    assert (given == before).all()


def test_islands_below_a_share_of_the_largest_one_go() -> None:
    given = mask("####....", "####..#.", "......#.", "#.......")  # 8, 2 and 1 cells
    no_island_of_one = mask("####....", "####..#.", "......#.", "........")
    largest = mask("####....", "####....", "........", "........")
    masks = np.stack([given, np.zeros_like(given), largest])
    assert (remove_islands(masks, min_share=0.125) == masks).all()  # 1 of 8 is not below an eighth
    assert (remove_islands(masks, min_share=0.2)[0] == no_island_of_one).all()
    assert (remove_islands(masks, min_share=0.26)[0] == largest).all()
    assert (remove_islands(masks, min_share=1.0)[2] == largest).all()
    assert not remove_islands(masks, min_share=1.0)[1].any()


@pytest.mark.parametrize("density", [0.1, 0.4, 0.6, 0.9])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (7, 8), (30, 40)])
def test_regions_are_those_that_scipy_finds(shape: tuple[int, int], density: float) -> None:
    masks = np.random.default_rng(5).random((6, *shape)) < density
    kept = remove_islands(masks, min_share=0.5)
    for given, found in zip(masks, kept, strict=True):
        labels, _ = ndimage.label(given, structure=np.ones((3, 3)))
        areas = np.bincount(labels.reshape(-1))[1:]
        large = np.flatnonzero(areas >= 0.5 * areas.max(initial=0)) + 1
        assert (found == np.isin(labels, large)).all()


def test_no_masks_have_no_regions() -> None:
    nothing = np.zeros((0, 4, 5), dtype=bool)
    assert remove_islands(nothing, min_share=0.1).shape == (0, 4, 5)
    assert remove_small_regions(nothing, min_area=3).shape == (0, 4, 5)
