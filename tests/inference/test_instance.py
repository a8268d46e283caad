# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Instances from masks."""

from __future__ import annotations

import pytest
import torch

from cmpf.inference import MaskRows, instance_inference, resize, restore_size

BIG = 30.0


def probs(*rows: list[float]) -> torch.Tensor:
    return torch.log(torch.tensor(rows))


def test_the_best_pairs_of_query_and_class_come_with_tight_boxes_and_scores():
    masks = torch.full((2, 4, 6), -BIG)
    masks[0, 1:3, 2:5] = BIG
    masks[1, 0, 0] = 1.0  # sigmoid(1) = 0.7311
    result = instance_inference(probs([0.6, 0.3, 0.1], [0.1, 0.8, 0.1]), masks, topk=3)
    # Pairs: (1, 1) 0.8 * 0.7311 = 0.5848; (0, 0) 0.6 * 1; (0, 1) 0.3 * 1. Best first: 0.6, 0.5848, 0.3.
    assert result.scores.tolist() == pytest.approx([0.6, 0.5848, 0.3], abs=1e-3)
    assert result.pred_classes.tolist() == [0, 1, 1]
    assert result.pred_boxes.tolist() == [[2, 1, 5, 3], [0, 0, 1, 1], [2, 1, 5, 3]]
    assert result.pred_masks.dtype == torch.bool
    assert result.pred_masks.sum(dim=(1, 2)).tolist() == [6, 1, 6]


def test_things_are_picked_from_the_best_pairs_and_not_the_best_pairs_from_things():
    masks = torch.full((2, 4, 4), BIG)
    is_thing = torch.tensor([False, True])
    mask_cls = probs([0.8, 0.1, 0.1], [0.6, 0.2, 0.2])
    assert len(instance_inference(mask_cls, masks, topk=2, is_thing=is_thing)) == 0
    result = instance_inference(mask_cls, masks, topk=3, is_thing=is_thing)
    assert result.pred_classes.tolist() == [1]
    assert result.scores.tolist() == pytest.approx([0.2], abs=1e-4)


def test_fewer_pairs_than_asked_for_all_come():
    assert len(instance_inference(torch.randn(2, 4).log_softmax(-1), torch.randn(2, 4, 4), topk=100)) == 6


def test_an_empty_mask_scores_zero_and_has_an_empty_box():
    result = instance_inference(probs([0.9, 0.1]), torch.full((1, 4, 4), -BIG), topk=5)
    assert result.scores.tolist() == [0.0]
    assert result.pred_boxes.tolist() == [[0.0, 0.0, 0.0, 0.0]]


def test_without_queries_the_result_is_empty_but_well_formed():
    result = instance_inference(torch.zeros(0, 4), torch.zeros(0, 5, 6), topk=10)
    assert len(result) == 0
    assert result.pred_masks.shape == (0, 5, 6)
    assert result.pred_boxes.shape == (0, 4)


def test_random_images_agree_with_a_loop_over_pairs():
    torch.manual_seed(0)
    mask_cls, masks = torch.randn(7, 5).log_softmax(-1), torch.randn(7, 9, 11)
    wanted = []
    for q in range(7):
        inside = masks[q] > 0
        quality = masks[q].sigmoid()[inside].mean()
        wanted += [(float(mask_cls[q].softmax(0)[k]), float(quality), q, k) for k in range(4)]
    best = sorted(wanted, reverse=True)[:10]
    result = instance_inference(mask_cls, masks, topk=10)
    expected = sorted(((score * quality, q, k) for score, quality, q, k in best), reverse=True)
    assert result.scores.tolist() == pytest.approx([score for score, _, _ in expected], rel=1e-4)
    assert result.pred_classes.tolist() == [k for _, _, k in expected]
    for mask, (_, q, _) in zip(result.pred_masks, expected, strict=True):
        assert torch.equal(mask, masks[q] > 0)


def test_masks_made_in_tiles_give_the_instances_of_whole_masks(monkeypatch):
    torch.manual_seed(1)
    mask_cls, masks = torch.randn(7, 5).log_softmax(-1), torch.randn(7, 8, 10) * 3
    sizes = {"padded": (32, 40), "unpadded": (30, 37), "output": (45, 60)}
    whole = instance_inference(mask_cls, restore_size(masks[None], **sizes)[0], topk=12)
    for floats in (1, 7 * 60 * 10, 10**9):
        monkeypatch.setattr(resize, "CPU_FLOATS", floats)
        result = instance_inference(mask_cls, MaskRows(masks, **sizes), topk=12)
        assert torch.equal(result.pred_classes, whole.pred_classes)
        assert (
            result.pred_masks != whole.pred_masks
        ).float().mean() < 1e-3  # cells at the border, by rounding
        torch.testing.assert_close(result.scores, whole.scores, atol=1e-4, rtol=0)


def test_where_memory_runs_out_once_the_result_is_the_same(monkeypatch, caplog):
    torch.manual_seed(2)
    mask_cls, masks = torch.randn(7, 5).log_softmax(-1), torch.randn(7, 9, 11)
    wanted = instance_inference(mask_cls, masks, topk=10)
    plain, calls = MaskRows.rows, []

    def rows(self, wanted_rows, queries):
        calls.append(wanted_rows)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(self, wanted_rows, queries)

    monkeypatch.setattr(MaskRows, "rows", rows)
    result = instance_inference(mask_cls, masks, topk=10)
    assert calls == [range(0, 9), range(0, 4), range(4, 8), range(8, 9)]
    assert caplog.messages == ["out of memory with 9 rows of an image at once; going on with 4"]
    assert torch.equal(result.pred_masks, wanted.pred_masks)
    torch.testing.assert_close(result.scores, wanted.scores)
