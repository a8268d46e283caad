# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What is launched does not grow with classes, queries, heads or targets (spec: no Python loop over them)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmarks.cases.training import build_criterion
from benchmarks.counting import count_operators
from benchmarks.setting import Setting, blobs, confident, vocabulary_of
from cmpf.inference import (
    MaskRows,
    geometric_ensemble,
    instance_inference,
    panoptic_inference,
    semantic_labels,
)
from cmpf.modeling.heads import MaskFeatures, PredictionHead, class_logits

SETTING = Setting(torch.device("cpu"), quick=True)
SIZES = {"padded": (64, 64), "unpadded": (60, 64), "output": (45, 48)}


def heads(classes: int, queries: int) -> Callable[[], Any]:
    head = PredictionHead(dim=16, mask_dim=16, embed_dim=8)
    words, features = vocabulary_of(SETTING, classes, 8), SETTING.random(1, 16, 8, 8)
    return lambda: head.predict(*head(SETTING.random(1, queries, 16)), MaskFeatures(features), words)


def class_ensemble(classes: int, queries: int) -> Callable[[], Any]:
    words, x = vocabulary_of(SETTING, classes, 8), SETTING.random(1, queries, 8)
    decoder, seen = SETTING.random(1, queries, classes + 1), torch.ones(classes, dtype=torch.bool)
    options = {"alpha": 0.4, "beta": 0.8, "valid_BQ": None, "objectness": 0.0}
    return lambda: geometric_ensemble(decoder, class_logits(x, words, 10.0), seen, **options)


def losses(classes: int, queries: int, *, layers: int = 3, targets: int = 2) -> Callable[[], Any]:
    criterion = build_criterion(classes, points=32)
    logits = SETTING.random(2, layers, queries, classes + 1).requires_grad_()
    masks = SETTING.random(2, layers * queries, 8, 8).requires_grad_()
    truth = [{"labels": torch.arange(targets), "masks": blobs(SETTING, targets, (32, 32)) > 0}] * 2

    def run() -> None:
        parts = zip(logits.unbind(1), (masks * 1).chunk(layers, dim=1), strict=True)
        *earlier, last = ({"pred_logits": a, "pred_masks": b} for a, b in parts)
        sum(criterion({**last, "aux_outputs": earlier}, truth).values()).backward()

    return run


def semantic(classes: int, queries: int) -> Callable[[], Any]:
    weights, masks = SETTING.random(queries, classes).softmax(-1), blobs(SETTING, queries, (16, 16))
    return lambda: semantic_labels(weights, MaskRows(masks, **SIZES), output=SIZES["output"])


def panoptic(classes: int, queries: int) -> Callable[[], Any]:
    mask_cls, masks = confident(SETTING, queries, classes, sure=queries), blobs(SETTING, queries, (16, 16))
    options = {"object_mask_threshold": 0.1, "overlap_threshold": 0.1}
    is_thing = torch.arange(classes) % 2 == 0
    return lambda: panoptic_inference(mask_cls, MaskRows(masks, **SIZES), is_thing=is_thing, **options)


def instance(classes: int, queries: int) -> Callable[[], Any]:
    mask_cls, masks = confident(SETTING, queries, classes, sure=queries), blobs(SETTING, queries, (16, 16))
    return lambda: instance_inference(mask_cls, MaskRows(masks, **SIZES), topk=queries)


PARTS = [heads, class_ensemble, losses, semantic, panoptic, instance]


def grown(small: Counter[str], large: Counter[str]) -> dict[str, tuple[int, int]]:
    """Operators that are launched more often in the second run, with both counts."""
    return {name: (small[name], count) for name, count in large.items() if count > small[name]}


@pytest.mark.parametrize("part", PARTS)
def test_more_classes_launch_no_more_operators(part):
    assert grown(count_operators(part(10, 12)), count_operators(part(60, 12))) == {}


@pytest.mark.parametrize("part", PARTS)
def test_more_queries_launch_no_more_operators(part):
    assert grown(count_operators(part(10, 12)), count_operators(part(10, 48))) == {}


def test_more_targets_launch_no_more_operators():
    small, large = (count_operators(losses(10, 12, targets=targets)) for targets in (2, 9))
    assert grown(small, large) == {}


# Views launch nothing; the sum of all losses, which this test makes itself, adds single numbers.
NO_WORK = {"select", "as_strided", "narrow", "slice", "unsqueeze", "detach", "add"}


def test_more_heads_launch_no_more_work():
    small, large = (count_operators(losses(10, 12, layers=layers)) for layers in (3, 9))
    assert grown(small, large).keys() <= {f"aten::{name}" for name in NO_WORK}
    assert large["aten::add"] - small["aten::add"] == 3 * 6  # three losses for each of six more heads


def test_a_loop_over_classes_is_found():
    def looped(classes: int) -> Callable[[], Any]:
        return lambda: [column.max() for column in torch.ones(4, classes).unbind(1)]

    assert grown(count_operators(looped(3)), count_operators(looped(5)))["aten::max"] == (3, 5)
