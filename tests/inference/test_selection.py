# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""People get sure guesses, one class a mask and each object once; metrics get everything."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.predictions import garden

import cmpf
from cmpf.errors import CMPFError
from cmpf.inference import MaskRows, Selection, instance_inference, panoptic_inference, semantic_labels
from cmpf.predictor import Predictor
from cmpf.shapeworld.scene import generate_scene

WORDS = ["red circle", "blue square", "brick", "sky"]


@pytest.fixture(scope="module")
def seg() -> Predictor:
    return cmpf.load("cmpf_tiny", device="cpu", overrides=["TEST.ENSEMBLE.ENABLED", False])


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    return np.asarray(generate_scene(3, size=128, seen_only=False, hard=True).image)


def three_masks() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of two classes and void, and three masks of a 4 x 4 image: left half, left half again, right half."""
    probs = torch.tensor([[0.6, 0.35, 0.05], [0.5, 0.4, 0.1], [0.2, 0.7, 0.1]])
    masks = torch.full((3, 4, 4), -9.0)
    masks[:2, :, :2], masks[2, :, 2:] = 9.0, 9.0
    return probs.log(), masks


def instances(selection: Selection | None, is_thing: tuple[bool, bool] = (True, True)) -> Any:
    mask_cls, masks = three_masks()
    return instance_inference(mask_cls, masks, topk=10, is_thing=torch.tensor(is_thing), selection=selection)


def test_a_mask_has_its_best_class_only_unless_several_are_wanted() -> None:
    # sigmoid(9) = 0.9999: scores are those of the classes.
    one = instances(Selection())
    assert one.pred_classes.tolist() == [1, 0, 0]
    assert one.scores.tolist() == pytest.approx([0.7, 0.6, 0.5], abs=1e-3)
    several = instances(Selection(multi_label=True, min_score=0))
    assert several.scores.tolist() == pytest.approx([0.7, 0.6, 0.5, 0.4, 0.35, 0.2], abs=1e-3)
    assert several.scores.tolist() == instances(None).scores.tolist()


def test_a_mask_whose_best_class_is_stuff_is_no_instance() -> None:
    found = instances(Selection(), is_thing=(False, True))
    assert (found.pred_classes.tolist(), len(found)) == ([1], 1)


def test_masks_below_the_score_are_not_even_made() -> None:
    made: list[int] = []

    class Watched(MaskRows):
        def rows(self, rows: range, chosen: torch.Tensor | None = None) -> torch.Tensor:
            made.append(len(self) if chosen is None else len(chosen))
            return super().rows(rows, chosen)

    mask_cls, masks = three_masks()
    watched = Watched(masks, padded=(16, 16), unpadded=(16, 16), output=(4, 4))
    things = torch.tensor([True, True])
    instance_inference(mask_cls, watched, topk=10, is_thing=things, selection=Selection(min_score=0.65))
    assert set(made) == {1}


def test_weak_segments_leave_their_pixels_to_others() -> None:
    mask_cls, masks = three_masks()
    masks[2] = 8.0  # everywhere, but the score of 0.7 is that of a class
    options = {"is_thing": torch.tensor([True, True]), "overlap_threshold": 0.0}
    threshold = Selection(min_score=0.65).floor(0.0)
    ids, segments = panoptic_inference(mask_cls, masks, object_mask_threshold=threshold, **options)
    assert [round(segment["score"], 3) for segment in segments] == [0.7]
    assert ids.unique().tolist() == [1]
    assert Selection(min_score=0.65).floor(0.9) == 0.9
    assert Selection(min_score=0).floor(0.0) == 0.0


def test_pixels_that_no_class_is_sure_of_are_background() -> None:
    weights = torch.tensor([[0.6, 0.1], [0.1, 0.2]])
    masks = torch.full((2, 4, 4), -99.0)
    masks[0, :, :2], masks[1, :, 2:] = 99.0, 99.0  # scores 0.6 on the left and 0.2 on the right
    rows = MaskRows(masks, padded=(16, 16), unpadded=(16, 16), output=(4, 4))
    plain = semantic_labels(weights, rows, output=(4, 4), selection=Selection())
    sure = semantic_labels(
        weights, rows, output=(4, 4), selection=Selection(background=True, min_semantic_score=0.5)
    )
    assert plain[0].tolist() == [0, 0, 1, 1]
    assert sure[0].tolist() == [0, 0, -1, -1]


def test_the_second_guess_at_an_object_goes_and_the_best_are_kept() -> None:
    one = garden().instances
    twice = type(one)(
        masks=np.concatenate([one.masks, one.masks, ~one.masks]),
        boxes=np.repeat(one.boxes, 3, axis=0),
        scores=np.array([0.9, 0.8, 0.7], np.float32),
        labels=np.array([0, 1, 1]),
        sources=np.repeat(one.sources, 3),
    )
    assert Selection().of_instances(twice).scores.tolist() == pytest.approx([0.9, 0.7])
    assert len(Selection(nms=1).of_instances(twice)) == 3
    assert Selection(nms=1, max_instances=2).of_instances(twice).scores.tolist() == pytest.approx([0.9, 0.8])
    assert Selection(min_score=0.75).of_instances(twice).scores.tolist() == pytest.approx([0.9])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_score": 1.5}, "min_score must be a number from 0 to 1, got 1.5"),
        ({"nms": "high"}, "nms must be a number from 0 to 1, got 'high'"),
        ({"max_instances": 0}, "max_instances must be a whole number from 1"),
        ({"min_semantic_score": True}, "min_semantic_score must be a number"),
    ],
)
def test_values_out_of_range_are_refused(seg: Predictor, options: dict[str, Any], message: str) -> None:
    with pytest.raises(CMPFError, match=message):
        seg.predict(np.zeros((8, 8, 3), np.uint8), WORDS, **options)


def test_the_selected_are_among_all_guesses_of_the_model(seg: Predictor, scene: np.ndarray) -> None:
    every = seg.predict(scene, WORDS, min_score=0, nms=1, multi_label=True)
    some = seg.predict(scene, WORDS)
    strong = every.instances.scores >= 0.3
    assert 0 < len(some.instances) <= strong.sum() < len(every.instances)
    assert set(some.instances.scores.tolist()) <= set(every.instances.scores.tolist())
    assert min(segment.score for segment in some.segments) >= 0.3
    assert len({mask.tobytes() for mask in some.instances.masks}) == len(some.instances)
    assert some.plot("instance").size == (640, 640)


def test_only_what_is_asked_for_is_computed(seg: Predictor, scene: np.ndarray) -> None:
    assert seg.predict(scene, WORDS, task=("panoptic", "instance")).tasks == ("panoptic", "instance")
    with pytest.raises(CMPFError, match="task 'depth' is unknown"):
        seg.predict(scene, WORDS, task=["panoptic", "depth"])
    with pytest.raises(CMPFError, match=r"task \[\] is unknown"):
        seg.predict(scene, WORDS, task=[])


def test_an_instance_run_returns_no_stuff(seg: Predictor, scene: np.ndarray) -> None:
    found = seg.predict(scene, WORDS, task="instance", stuff=["brick", "sky"], min_score=0, multi_label=True)
    assert set(found.instances.labels.tolist()) == {0, 1}


def test_a_background_is_drawn_as_the_image_is(seg: Predictor, scene: np.ndarray) -> None:
    plain = seg.predict(scene, WORDS, task="semantic").semantic
    found = seg.predict(scene, WORDS, task="semantic", background=True, min_semantic_score=0.9).semantic
    sure = found != 65535
    assert 0 < sure.sum() < sure.size
    assert np.array_equal(found[sure], plain[sure])
    nothing = replace(garden(), semantic_result=np.full((6, 8), 65535, np.uint16))
    assert nothing.summary() != {}  # of its segments
    drawn = [np.asarray(nothing.plot("semantic", opacity=opacity)) for opacity in (0, 1)]
    assert np.array_equal(*drawn)
    assert replace(nothing, panoptic_result=None, instances_result=None).summary() == {}
