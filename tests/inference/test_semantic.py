# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Semantic scores and labels."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from cmpf.inference import resize, restore_size, semantic_inference, semantic_labels

BIG = 30.0  # a logit whose sigmoid is 1


def plain_scores(
    weights: Tensor,
    masks: Tensor,
    *,
    padded: tuple[int, int],
    unpadded: tuple[int, int],
    output: tuple[int, int],
    resize_before: bool,
) -> Tensor:
    """The formula at full size."""
    size = output if resize_before else unpadded
    maps = restore_size(masks[None], padded=padded, unpadded=unpadded, output=size)[0].sigmoid()
    scores = torch.stack([(weights[:, k, None, None] * maps).sum(0) for k in range(weights.shape[1])])
    return F.interpolate(scores[None], size=output, mode="bilinear")[0]


def test_scores_are_the_sum_of_class_probability_times_mask():
    # Two masks, two classes and void; the softmax of these logarithms is the numbers themselves.
    mask_cls = torch.log(torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]]))
    mask_pred = torch.tensor([[[BIG, -BIG]], [[BIG, 0.0]]])
    scores = semantic_inference(mask_cls, mask_pred)
    # Pixel 0: both masks; pixel 1: half of mask 1.
    torch.testing.assert_close(scores, torch.tensor([[[0.8, 0.05]], [[0.5, 0.15]]]))


def test_a_query_that_is_all_void_adds_nothing():
    mask_cls = torch.log(torch.tensor([[1e-8, 1e-8, 1.0]]))
    assert semantic_inference(mask_cls, torch.full((1, 2, 2), BIG)).max() < 1e-6


@pytest.mark.parametrize("resize_before", [True, False])
@pytest.mark.parametrize("output", [(120, 150), (50, 61), (200, 301), (1, 1), (120, 40)])
def test_labels_are_the_best_scores_of_the_full_formula(output, resize_before, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(20, 12, generator=generator).softmax(-1)
    masks = torch.randn(20, 32, 40, generator=generator) * 4
    sizes = {"padded": (128, 160), "unpadded": (120, 150), "output": output, "resize_before": resize_before}
    scores = plain_scores(weights, masks, **sizes)
    for floats in (1, 100_000, 10**9):  # one row at a time, several tiles, one tile
        monkeypatch.setattr(resize, "CPU_FLOATS", floats)
        labels = semantic_labels(weights, masks, **sizes)
        assert labels.shape == output
        assert labels.dtype == torch.int64
        # Where two classes are equal to rounding either may win.
        best, second = scores.topk(2, dim=0).values
        sure = best - second > 1e-4
        assert torch.equal(labels[sure], scores.argmax(0)[sure])
        assert sure.float().mean() > 0.98 or sure.numel() == 1


def test_a_hand_drawn_image_gets_the_label_of_its_mask():
    masks = torch.full((2, 4, 4), -BIG)
    masks[0, :, :2] = BIG
    masks[1, :, 2:] = BIG
    weights = torch.tensor([[0.9, 0.1, 0.0], [0.0, 0.2, 0.8]])
    labels = semantic_labels(
        weights, masks, padded=(4, 4), unpadded=(4, 4), output=(4, 4), resize_before=False
    )
    assert labels.tolist() == [[0, 0, 2, 2]] * 4


class LargestTensors(TorchDispatchMode):
    """Remembers the largest tensor that any operation returned, in elements."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, Tensor):
                self.largest = max(self.largest, value.untyped_storage().nbytes() // value.element_size())
        return result


@pytest.mark.parametrize("resize_before", [True, False])
def test_no_tensor_grows_with_the_image(resize_before, monkeypatch):
    # 847 classes and 100 queries at 256 x 320: scores alone would be 69 M floats, a tile has 2 M.
    monkeypatch.setattr(resize, "CPU_FLOATS", 2_000_000)
    weights, masks = torch.rand(100, 847), torch.randn(100, 16, 20)
    with LargestTensors() as mode:
        semantic_labels(
            weights, masks, padded=(64, 80), unpadded=(64, 80), output=(256, 320), resize_before=resize_before
        )
    assert mode.largest <= 2_500_000


@pytest.mark.parametrize("floats", [resize.CPU_FLOATS, resize.GPU_FLOATS])
def test_a_tile_of_847_classes_at_1280_x_1024_leaves_room_under_one_gigabyte(floats):
    # At most four tensors of a tile live at once: the sums, two rows gathered for each, and the result.
    rows = math.floor(floats / ((250 + 847) * 1280))
    labels = 1024 * 1280 * 8
    assert rows >= 1
    assert 4 * rows * (250 + 847) * 1280 * 4 + labels < 1e9


def test_where_memory_runs_out_once_the_labels_are_the_same(monkeypatch, caplog):
    weights, masks = torch.rand(9, 5).softmax(-1), torch.randn(9, 8, 10)
    sizes = {"padded": (32, 40), "unpadded": (30, 37), "output": (45, 60), "resize_before": True}
    wanted = semantic_labels(weights, masks, **sizes)
    calls = []

    def best_of(maps):
        calls.append(maps.shape[1])
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return resize.best_of(maps)

    monkeypatch.setattr("cmpf.inference.semantic.best_of", best_of)
    assert torch.equal(semantic_labels(weights, masks, **sizes), wanted)
    assert calls == [45, 22, 22, 1]
    assert caplog.messages == ["out of memory with 45 rows of an image at once; going on with 22"]
