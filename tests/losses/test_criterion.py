# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The set criterion against hand-worked numbers and a naive reference."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from helpers.modeling import random_targets
from torch import Tensor
from torch.nn import functional as F

from benchmarks.cases.training import fixed_points, fixed_random_points
from benchmarks.published import training as published
from cmpf.common import distributed
from cmpf.errors import TrainingError
from cmpf.losses import HungarianMatcher, SetCriterion
from cmpf.losses.criterion import Normalizers, normalizers, stack_heads
from cmpf.types import DecoderOutput, Targets

POINTS = 32


def build(num_classes: int, **changes: Any) -> SetCriterion:
    values: dict[str, Any] = {
        "class_weight": 2.0,
        "mask_weight": 5.0,
        "dice_weight": 5.0,
        "no_object_weight": 0.1,
        "num_points": POINTS,
        "oversample_ratio": 3.0,
        "importance_sample_ratio": 0.75,
    }
    match = HungarianMatcher(class_weight=2.0, mask_weight=5.0, dice_weight=5.0, num_points=POINTS)
    return SetCriterion(num_classes=num_classes, matcher=match, **(values | changes))


def outputs_of(heads: int, images: int, queries: int, classes: int) -> DecoderOutput:
    generator = torch.Generator().manual_seed(5)

    def head() -> dict[str, Tensor]:
        logits = torch.randn(images, queries, classes + 1, generator=generator)
        masks = torch.randn(images, queries, 8, 8, generator=generator) * 3
        return {"pred_logits": logits.requires_grad_(), "pred_masks": masks.requires_grad_()}

    return {**head(), "aux_outputs": [head() for _ in range(heads - 1)]}


def test_all_heads_agree_with_the_published_loops() -> None:
    outputs = outputs_of(heads=4, images=3, queries=6, classes=4)
    targets = random_targets((3, 20, 16), (0, 20, 16), (8, 20, 16))  # the last image has more than queries
    with fixed_random_points():
        losses = build(4)(outputs, targets)
    wanted = published.losses(build(4), outputs, targets, draw=fixed_points)
    assert losses.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-4, atol=0.0)


def test_clips_logits_are_scored_by_the_matches_of_the_last_head():
    # In the last head query 0 shows the right half, of class 0, and query 1 the left one, of class 1; before, it was
    # the other way round. CLIP gives these classes 3 / 4 and 7 / 8; the whole batch has 4 targets.
    left = torch.zeros(8, 8, dtype=torch.bool)
    left[:, :4] = True
    maps, logits = torch.stack([left, ~left]).float() * 18 - 9, torch.zeros(1, 2, 3)
    outputs: DecoderOutput = {
        "pred_logits": logits,
        "pred_masks": maps.flip(0)[None],
        "clip_logits": torch.tensor([[[math.log(3), 0.0], [0.0, math.log(7)]]]),
        "aux_outputs": [{"pred_logits": logits, "pred_masks": maps[None]}],
    }
    target: Targets = {"labels": torch.tensor([1, 0]), "masks": torch.stack([left, ~left])}
    whole = Normalizers(targets=torch.tensor(4.0), class_weight=torch.tensor(1.0), images=torch.tensor(2.0))
    losses = build(2, clip_class_weight=0.5)(outputs, [target], whole)
    assert losses["loss_clip"].item() == pytest.approx(0.5 * -math.log(3 / 4 * 7 / 8) / 4, rel=1e-5)
    assert "loss_clip" not in build(2)(outputs, [target])
    del outputs["clip_logits"]
    assert "loss_clip" not in build(2, clip_class_weight=0.5)(outputs, [target])


def test_ten_heads_give_the_thirty_documented_names():
    losses = build(4)(outputs_of(10, 1, 5, 4), random_targets((2, 8, 8)))
    names = {
        f"loss_{kind}{suffix}"
        for kind in ("ce", "mask", "dice")
        for suffix in ("", *(f"_{i}" for i in range(9)))
    }
    assert set(losses) == names


def test_without_deep_supervision_only_the_last_head_is_scored():
    losses = build(4, deep_supervision=False)(outputs_of(3, 1, 5, 4), random_targets((2, 8, 8)))
    assert set(losses) == {"loss_ce", "loss_mask", "loss_dice"}


def test_one_flat_mask_gives_the_numbers_worked_by_hand():
    # Logit 0 everywhere, so s = 0.5; the target is full, so t = 1 at inner points. With P points:
    # bce = ln 2 = 0.6931; dice = 1 - (2 * 0.5 P + 1) / (0.5 P + P + 1).
    # P = 32: 1 - 33 / 49 = 0.3265. Times 5, one target: 3.4657 and 1.6327.
    # One query of class 0 out of {0, void}, logits equal: ce = ln 2, times 2 = 1.3863.
    outputs: DecoderOutput = {
        "pred_logits": torch.zeros(1, 1, 2),
        "pred_masks": torch.zeros(1, 1, 64, 64),
        "aux_outputs": [],
    }
    target: Targets = {"labels": torch.tensor([0]), "masks": torch.ones(1, 512, 512, dtype=torch.bool)}
    torch.manual_seed(0)
    losses = build(1)(outputs, [target])
    assert losses["loss_ce"].item() == pytest.approx(2 * math.log(2), rel=1e-5)
    assert losses["loss_mask"].item() == pytest.approx(5 * math.log(2), rel=1e-3)
    assert losses["loss_dice"].item() == pytest.approx(5 * (1 - 33 / 49), rel=1e-2)


def test_void_counts_a_tenth_in_the_weighted_mean():
    # Query 0 is matched to class 0 at p = 0.5, query 1 is void at p(void) = 0.2, K = 1.
    # ce = (1 * ln 2 + 0.1 * -ln 0.2) / 1.1 = (0.6931 + 0.1609) / 1.1 = 0.7764; times 2 = 1.5528.
    outputs: DecoderOutput = {
        "pred_logits": torch.tensor([[[0.0, 0.0], [math.log(0.8), math.log(0.2)]]]),
        "pred_masks": torch.stack([torch.full((8, 8), 9.0), torch.full((8, 8), -9.0)])[None],
        "aux_outputs": [],
    }
    target: Targets = {"labels": torch.tensor([0]), "masks": torch.ones(1, 8, 8, dtype=torch.bool)}
    assert build(1)(outputs, [target])["loss_ce"].item() == pytest.approx(1.5528, rel=1e-3)


def test_a_perfect_prediction_costs_almost_nothing():
    # Only points within half a pixel of a border are in doubt: about 4 of 256 columns and rows.
    left = torch.zeros(256, 256, dtype=torch.bool)
    left[:, :128] = True
    outputs: DecoderOutput = {
        "pred_logits": torch.tensor([[[20.0, 0.0, 0.0], [0.0, 0.0, 20.0]]]),
        "pred_masks": torch.stack([left.float() * 20 - 10, torch.full((256, 256), -10.0)])[None],
        "aux_outputs": [],
    }
    target: Targets = {"labels": torch.tensor([0]), "masks": left[None]}
    losses = build(2, importance_sample_ratio=0.0, num_points=4096)(outputs, [target])
    assert losses["loss_ce"].item() < 1e-6
    assert losses["loss_mask"].item() < 0.1
    assert losses["loss_dice"].item() < 0.1


def test_a_batch_without_targets_trains_void_only_and_keeps_the_graph_connected():
    outputs = outputs_of(heads=3, images=2, queries=4, classes=4)
    losses = build(4)(outputs, random_targets((0, 8, 8), (0, 4, 4)))
    assert losses["loss_mask"].item() == losses["loss_dice_0"].item() == 0.0
    assert losses["loss_ce"].item() > 0
    sum(losses.values()).backward()
    for head in (outputs, *outputs["aux_outputs"]):
        assert head["pred_masks"].grad is not None
        assert torch.count_nonzero(head["pred_masks"].grad) == 0
        assert torch.count_nonzero(head["pred_logits"].grad) > 0


def test_gradients_reach_every_head_and_matched_masks_only():
    outputs = outputs_of(heads=2, images=1, queries=6, classes=4)
    sum(build(4)(outputs, random_targets((2, 8, 8))).values()).backward()
    for head in (outputs, *outputs["aux_outputs"]):
        touched = head["pred_masks"].grad.flatten(2).abs().sum(-1) > 0
        assert touched.sum() == 2


def test_targets_of_another_size_than_the_predictions_cost_the_same():
    torch.manual_seed(0)
    mask = F.interpolate(torch.randn(1, 1, 4, 4), size=(64, 64), mode="bilinear")[0] > 0
    outputs = outputs_of(1, 1, 1, 4)
    values = []
    for truth in (mask, F.interpolate(mask[None].float(), scale_factor=4.0, mode="nearest")[0] > 0):
        torch.manual_seed(1)
        target: Targets = {"labels": torch.tensor([0]), "masks": truth}
        values.append(build(4, num_points=2000)(outputs, [target])["loss_mask"].item())
    assert values[0] == pytest.approx(values[1], rel=0.05)


def test_half_precision_predictions_are_scored_in_full_precision():
    outputs = outputs_of(1, 1, 3, 4)
    outputs["pred_masks"] = outputs["pred_masks"].detach().bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = build(4)(outputs, random_targets((2, 8, 8)))
    assert all(value.dtype == torch.float32 for value in losses.values())
    losses["loss_mask"].backward()
    assert outputs["pred_masks"].grad.isfinite().all()


def test_losses_are_divided_by_the_normalizers_of_the_whole_batch_where_they_are_given():
    outputs, targets = outputs_of(1, 1, 5, 4), random_targets((2, 8, 8))
    judge = build(4)
    torch.manual_seed(0)
    alone = judge(outputs, targets)
    torch.manual_seed(0)
    # Alone: 2 targets, and class weights 2 * 1 + 3 * 0.1 = 2.3.
    whole = Normalizers(targets=torch.tensor(4.0), class_weight=torch.tensor(4.6), images=torch.tensor(1.0))
    part = judge(outputs, targets, whole)
    assert part["loss_dice"].item() == pytest.approx(alone["loss_dice"].item() * 2 / 4)
    assert part["loss_mask"].item() == pytest.approx(alone["loss_mask"].item() * 2 / 4)
    assert part["loss_ce"].item() == pytest.approx(alone["loss_ce"].item() * 2.3 / 4.6)
    torch.manual_seed(0)
    assert judge(outputs, targets)["loss_dice"].item() == alone["loss_dice"].item()


def test_the_same_seed_gives_the_same_losses_and_another_seed_others():
    outputs, targets = outputs_of(2, 2, 5, 4), random_targets((2, 8, 8), (1, 16, 8))
    values = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        values.append({name: value.item() for name, value in build(4)(outputs, targets).items()})
    assert values[0] == values[1]
    assert values[0]["loss_mask"] != values[2]["loss_mask"]


def test_logits_for_another_number_of_classes_are_refused():
    with pytest.raises(TrainingError, match="class logits have 5 columns, expected 7 training classes"):
        build(7)(outputs_of(1, 1, 5, 4), random_targets((2, 8, 8)))


def test_labels_and_masks_of_different_number_are_refused():
    target: Targets = {"labels": torch.tensor([0]), "masks": torch.zeros(2, 8, 8, dtype=torch.bool)}
    with pytest.raises(TrainingError, match="target 0 has 1 labels but 2 masks"):
        build(4)(outputs_of(1, 1, 5, 4), [target])


def test_a_batch_of_another_length_than_its_targets_is_refused():
    with pytest.raises(TrainingError, match="1 targets for 2 images"):
        build(4)(outputs_of(1, 2, 5, 4), random_targets((2, 8, 8)))


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
        [head[:1] for head in parts()],
        [*parts()[:2], parts()[2]],
        [parts()[0]] * 3,
        [head * 2 for head in parts()],
        list(torch.randn(2, 12, 6, 5).transpose(2, 3).chunk(3, dim=1)),
    ],
    ids=["unrelated", "reversed", "some", "one image", "another's", "the same", "computed", "transposed"],
)
def test_anything_else_is_copied_in_the_given_order(heads):
    assert torch.equal(stack_heads(heads), torch.stack(heads, dim=1))


def counted_targets(*counts: int) -> list[Targets]:
    return [
        {"labels": torch.zeros(n, dtype=torch.int64), "masks": torch.zeros(n, 2, 2, dtype=torch.bool)}
        for n in counts
    ]


def values(targets: list[Targets], *, queries: int = 5) -> tuple[float, float]:
    found = normalizers(targets, queries=queries, no_object_weight=0.1, device=torch.device("cpu"))
    return found.targets.item(), found.class_weight.item()


def test_targets_are_counted_and_queries_weighted_by_what_they_are_matched_with() -> None:
    # 3 matched queries of weight 1, and 2 * 5 - 3 = 7 of weight 0.1
    assert values(counted_targets(2, 1)) == pytest.approx((3, 3.7))


def test_no_more_targets_than_queries_are_matched_but_all_are_counted() -> None:
    # 2 queries and 4 targets: both queries matched; the other image's 2 queries are void: 2 + 0.2
    assert values(counted_targets(4, 0), queries=2) == pytest.approx((4, 2.2))


def test_a_batch_without_targets_divides_by_one() -> None:
    assert values(counted_targets(0)) == pytest.approx((1, 0.5))


def test_both_are_means_over_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    def all_reduce(sums: Tensor) -> None:
        sums += torch.tensor([6.0, 6.5, 3.0])  # what another process has

    monkeypatch.setattr(distributed.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed.dist, "all_reduce", all_reduce)
    # (2 + 6) / 2 targets; (2 + 3 * 0.1 + 6.5) / 2
    assert values(counted_targets(2)) == pytest.approx((4, 4.4))
