# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Losses of CLIP's names of masks: hand-worked numbers, and references that are written out plainly."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cmpf.losses.clip_names import (
    AdapterCriterion,
    consistency_loss,
    mask_aware_loss,
    mixed_examples,
    representation_loss,
    soft_iou,
    target_examples,
)
from cmpf.losses.criterion import Normalizers, clip_class_loss
from cmpf.types import Targets

K, Q, SIZE = 4, 6, (16, 24)


def targets_of(*labels: int, seed: int = 0) -> Targets:
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(len(labels), *SIZE, generator=generator) > 0.6
    return {"labels": torch.tensor(labels, dtype=torch.int64), "masks": masks}


def test_the_class_loss_of_clips_names_is_minus_the_logarithm_of_the_true_class() -> None:
    # Softmax of log(1), log(2), log(5): 1/8, 2/8, 5/8.
    logits = torch.tensor([[1.0, 2.0, 5.0], [5.0, 1.0, 2.0]]).log()
    labels = torch.tensor([1, 0])
    expected = -math.log(2 / 8) - math.log(5 / 8)
    assert float(clip_class_loss(logits, labels, double_softmax=False)) == pytest.approx(expected)
    # Published: softmax once more, of the probabilities.
    total = sum(math.exp(p) for p in (1 / 8, 2 / 8, 5 / 8))
    expected = (math.log(total) - 2 / 8) + (math.log(total) - 5 / 8)
    assert float(clip_class_loss(logits, labels, double_softmax=True)) == pytest.approx(expected)


def test_the_published_class_loss_has_a_floor_far_above_zero() -> None:
    sure = torch.tensor([[50.0, 0.0, 0.0, 0.0]])
    label = torch.tensor([0])
    assert float(clip_class_loss(sure, label, double_softmax=False)) == pytest.approx(0.0, abs=1e-6)
    floor = math.log(1 + (K - 1) / math.e)
    assert float(clip_class_loss(sure, label, double_softmax=True)) == pytest.approx(floor)


def test_soft_overlap_is_the_product_over_the_sum_without_the_product() -> None:
    # One pixel inside, sigmoid 3/4; three outside, sigmoid 1/4: 0.75 / (1 + 1.5 - 0.75).
    mask = torch.full((1, 2, 2), -math.log(3))
    mask[0, 0, 0] = math.log(3)
    truth = torch.tensor([[[True, False], [False, False]]])
    assert float(soft_iou(mask, truth)) == pytest.approx(0.75 / 1.75, abs=1e-6)


def naive_mask_aware(logits: Tensor, masks: Tensor, targets: list[Targets]) -> float:
    total = 0.0
    for image, target in enumerate(targets):
        p = logits[image].softmax(-1)
        m = F.interpolate(masks[image].sigmoid()[None], SIZE, mode="bilinear")[0]
        for label, g in zip(target["labels"].tolist(), target["masks"].float(), strict=True):
            s = [float((g * q).sum() / (g.sum() + q.sum() - (g * q).sum() + 1e-7)) for q in m]
            scaled = [(x - min(s)) / (max(s) - min(s) + 1e-8) for x in s]
            d = [abs(float(p[q, label]) - scaled[q]) for q in range(Q)]
            total += sum(0.5 * x * x if x < 1 else x - 0.5 for x in d) / Q
    return total


def test_the_mask_aware_loss_agrees_with_a_naive_one() -> None:
    torch.manual_seed(1)
    logits, masks = torch.randn(3, Q, K), 3 * torch.randn(3, Q, 4, 6)
    targets = [targets_of(1, 3), targets_of(), targets_of(0, 2, 2, seed=1)]
    found = mask_aware_loss(logits, masks, targets)
    assert float(found) == pytest.approx(naive_mask_aware(logits, masks, targets), rel=1e-5)


def test_the_mask_aware_loss_trains_names_and_not_masks() -> None:
    logits, masks = torch.randn(1, Q, K, requires_grad=True), torch.randn(1, Q, 4, 4, requires_grad=True)
    mask_aware_loss(logits, masks, [targets_of(1)]).backward()
    assert logits.grad is not None
    assert logits.grad.abs().sum() > 0
    assert masks.grad is None
    logits.grad = None
    mask_aware_loss(logits, masks, [targets_of()]).backward()  # no object: no loss, and no failure
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def naive_representation(student: Tensor, teacher: Tensor) -> float:
    def numbers(x: Tensor) -> list[float]:
        x = x.clamp(min=0)
        C, h, w = x.shape
        side = max(h, w)
        if h != w:
            x = F.interpolate(x[None], (side, side), mode="bilinear")[0]
        found = []
        for s in (1, 2, 4):
            k = w // s
            cells = side // k
            for c in range(C):
                means = [
                    [float(x[c, a * k : a * k + k, b * k : b * k + k].mean()) for b in range(cells)]
                    for a in range(cells)
                ]
                found += [sum(row) for row in means] + [sum(column) for column in zip(*means, strict=True)]
        return found

    total = 0.0
    for a, b in zip(student, teacher, strict=True):
        d = [abs(x - y) for x, y in zip(numbers(a), numbers(b), strict=True)]
        total += sum(0.5 * x * x if x < 1 else x - 0.5 for x in d) / len(d)
    return total


@pytest.mark.parametrize("size", [(8, 8), (5, 8), (9, 4)])
def test_the_representation_loss_agrees_with_a_naive_one(size: tuple[int, int]) -> None:
    torch.manual_seed(2)
    student, teacher = 2 * torch.randn(2, 3, *size), 2 * torch.randn(2, 3, *size)
    found = representation_loss(student, teacher)
    assert float(found) == pytest.approx(naive_representation(student, teacher), rel=1e-4)
    assert float(representation_loss(student, student)) == 0.0


def test_maps_smaller_than_the_regions_are_compared_as_they_are() -> None:
    assert torch.isfinite(representation_loss(torch.randn(1, 2, 2, 3), torch.randn(1, 2, 2, 3)))


def test_the_consistency_loss_is_one_minus_the_cosine() -> None:
    a, b = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[4.0, 3.0], [0.0, 2.0]])
    assert float(consistency_loss(a, b)) == pytest.approx((1 - 24 / 25) + 1)


def test_stage_one_takes_at_most_32_true_masks_and_fills_up_with_none() -> None:
    found = target_examples([targets_of(*range(3)), targets_of(*[1] * 40, seed=1), targets_of()])
    assert found.masks.shape == (3, 32, *SIZE)
    assert (found.labels >= 0).sum(dim=1).tolist() == [3, 32, 0]
    assert found.masks[0, 3:].abs().sum() == found.masks[2].abs().sum() == 0
    assert target_examples([targets_of()]).masks.shape == (1, 1, *SIZE)


def square(top: int, left: int, side: int = 8) -> Tensor:
    mask = torch.zeros(SIZE, dtype=torch.bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_stage_two_pairs_predicted_masks_with_the_true_ones_that_they_cover() -> None:
    truth = torch.stack([square(0, 0), square(8, 8), square(0, 8, 4)])
    target: Targets = {"labels": torch.tensor([2, 0, 3]), "masks": truth}
    # Query 0 is the second true mask, query 1 nearly the first, query 2 half of the third: IoU 1, 7/8 and 1/2.
    predicted = torch.stack([square(8, 8), square(0, 0) & ~square(7, 0), square(0, 8, 4) & ~square(2, 8)])
    found = mixed_examples(torch.where(predicted, 5.0, -5.0)[None], [target])
    assert found.masks.shape == (1, 16 + 8 + 8, *SIZE)
    pairs, truths = found.labels[0, 16:24], found.labels[0, 24:]
    assert torch.equal(pairs, truths)
    assert sorted(pairs.tolist()) == [-1] * 6 + [0, 2]
    for slot in (pairs >= 0).nonzero()[:, 0].tolist():
        label = int(pairs[slot])
        query, true = {0: (0, 1), 2: (1, 0)}[label]
        assert torch.equal(found.masks[0, 16 + slot].bool(), predicted[query])
        assert torch.equal(found.masks[0, 24 + slot].bool(), truth[true])
    assert sorted(found.labels[0, :16].tolist()) == [-1] * 13 + [0, 2, 3]


def test_stage_two_without_objects_has_no_example() -> None:
    found = mixed_examples(torch.randn(1, 3, *SIZE), [targets_of()])
    assert found.labels.unique().tolist() == [-1]
    assert found.masks.abs().sum() == 0


def test_the_losses_of_mask_adapter_agree_with_naive_ones() -> None:
    torch.manual_seed(3)
    truth = torch.stack([square(0, 0), square(8, 8)])
    targets: list[Targets] = [{"labels": torch.tensor([2, 0]), "masks": truth}, targets_of()]
    examples = mixed_examples(torch.where(truth, 5.0, -5.0).expand(2, -1, -1, -1), targets)
    logits, embeddings = torch.randn(2, 32, K + 1), torch.randn(2, 32, 7)
    criterion = AdapterCriterion(mixed=True, class_weight=2.0, consistency_weight=5.0, detach_truth=True)
    one = torch.tensor(1.0)
    # This process has two of six images.
    losses = criterion(logits, embeddings, examples, Normalizers(one, one, images=torch.tensor(6.0)))
    named = [(i, int(label)) for i, label in enumerate(examples.labels[0]) if label >= 0]
    assert len(named) == 2 + 2 + 2
    ce = sum(-float(logits[0, i].log_softmax(-1)[label]) for i, label in named) / len(named)
    assert float(losses["loss_ce"]) == pytest.approx(2 * ce * 2 / 6, rel=1e-5)
    cosines = [
        float(F.cosine_similarity(embeddings[0, 16 + i], embeddings[0, 24 + i], dim=0))
        if examples.labels[0, 16 + i] >= 0
        else 1.0
        for i in range(8)
    ]
    assert float(losses["loss_consistency"]) == pytest.approx(5 * (1 - sum(cosines) / 8) / 6, rel=1e-4)


@pytest.mark.parametrize("detached", [True, False])
def test_the_true_masks_embedding_gets_a_gradient_only_where_it_is_wanted(detached: bool) -> None:
    target: Targets = {"labels": torch.tensor([1]), "masks": square(0, 0)[None]}
    examples = mixed_examples(torch.where(square(0, 0), 5.0, -5.0)[None, None], [target])
    embeddings = torch.randn(1, 32, 7, requires_grad=True)
    criterion = AdapterCriterion(mixed=True, class_weight=0.0, consistency_weight=1.0, detach_truth=detached)
    divisors = criterion.normalizers([target], queries=1, device=torch.device("cpu"))
    criterion(torch.zeros(1, 32, K + 1), embeddings, examples, divisors)["loss_consistency"].backward()
    assert embeddings.grad is not None
    assert (embeddings.grad[0, 16:24].abs().sum() > 0).item()
    assert (embeddings.grad[0, 24:].abs().sum() == 0).item() is detached
