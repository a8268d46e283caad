# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Panoptic images from masks, on hand-drawn images and against a loop over queries."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.published import postprocess as published
from cmpf.inference import MaskRows, panoptic_inference, resize, restore_size
from cmpf.types import SegmentInfo

THING, STUFF = 0, 1
IS_THING = torch.tensor([True, False])


def drawn(*images: str) -> Tensor:
    """Masks from images: "#" inside, "." outside, "=" one half, "?" undecided but below one half."""
    logit = {"#": 8.0, ".": -8.0, "=": 0.0, "?": -0.1}
    return torch.tensor([[[logit[sign] for sign in row] for row in image.split()] for image in images])


def classes(*rows: tuple[float, float, float]) -> Tensor:
    """Log distributions over (thing, stuff, void)."""
    return torch.log(torch.tensor(rows) + 1e-8)


def infer(mask_cls: Tensor, masks: Tensor, **changes: Any) -> tuple[list[list[int]], list[SegmentInfo]]:
    thresholds = {"object_mask_threshold": 0.0, "overlap_threshold": 0.8} | changes
    ids, segments = panoptic_inference(mask_cls, masks, is_thing=IS_THING, **thresholds)
    assert ids.dtype == torch.int32
    return ids.tolist(), segments


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("object_threshold", "overlap"), [(0.0, 0.8), (0.3, 0.5), (0.25, 0.0)])
def test_random_images_agree_with_the_loop_over_queries(seed, object_threshold, overlap):
    torch.manual_seed(seed)
    mask_cls = (torch.randn(12, 6) * 2).log_softmax(-1)
    masks = torch.nn.functional.interpolate(torch.randn(1, 12, 4, 4) * 3, size=(24, 32), mode="bicubic")[0]
    is_thing = torch.tensor([True, False, True, False, False])
    options = {"object_mask_threshold": object_threshold, "overlap_threshold": overlap}
    ids, segments = panoptic_inference(mask_cls, masks, is_thing=is_thing, **options)
    wanted_ids, labels = published.panoptic(mask_cls, masks, is_thing=is_thing, **options)
    assert torch.equal(ids, wanted_ids)
    got = [(s["id"], s["isthing"], s["category_id"], s["area"]) for s in segments]
    assert got == [
        (number, bool(is_thing[label]), label, int((ids == number).sum()))
        for number, label in enumerate(labels, start=1)
    ]


def test_two_things_and_stuff_are_numbered_from_one_in_query_order():
    masks = drawn("#... #... #... ....", "...# ...# .... ....", ".##. .##. .##. ####")
    ids, segments = infer(classes((0.9, 0, 0.1), (0.8, 0, 0.2), (0, 0.7, 0.3)), masks)
    assert ids == [[1, 3, 3, 2], [1, 3, 3, 2], [1, 3, 3, 0], [3, 3, 3, 3]]
    assert [(s["id"], s["category_id"], s["isthing"], s["area"]) for s in segments] == [
        (1, THING, True, 3),
        (2, THING, True, 2),
        (3, STUFF, False, 10),
    ]
    assert [s["score"] for s in segments] == pytest.approx([0.9, 0.8, 0.7], abs=1e-5)


def test_stuff_of_one_class_merges_and_things_of_one_class_do_not():
    masks = drawn("##.. ##.. .... ....", "..## ..## .... ....", ".... .... ##.. ##..", ".... .... ..## ..##")
    ids, segments = infer(classes((0, 0.9, 0.1), (0, 0.6, 0.4), (0.9, 0, 0.1), (0.9, 0, 0.1)), masks)
    assert ids == [[1, 1, 1, 1]] * 2 + [[2, 2, 3, 3]] * 2
    assert [s["area"] for s in segments] == [8, 4, 4]
    assert segments[0]["score"] == pytest.approx((4 * 0.9 + 4 * 0.6) / 8, abs=1e-5)


def test_a_query_that_loses_too_much_of_its_mask_is_dropped_and_leaves_void():
    # Query 1 has 8 pixels, of which the surer query 0 takes 4: 4 / 8 < 0.8.
    masks = drawn("##.. ##.. .... ....", "#### #### .... ....")
    mask_cls = classes((0.9, 0, 0.1), (0.5, 0, 0.5001))
    mask_cls[1] = torch.log(torch.tensor([0.6, 0.0, 0.4]) + 1e-8)
    ids, segments = infer(mask_cls, masks)
    assert ids == [[1, 1, 0, 0]] * 2 + [[0] * 4] * 2
    assert len(segments) == 1
    ids, segments = infer(mask_cls, masks, overlap_threshold=0.5)
    assert ids == [[1, 1, 2, 2]] * 2 + [[0] * 4] * 2
    assert [s["area"] for s in segments] == [4, 4]


def test_pixels_below_one_half_belong_to_nobody():
    ids, segments = infer(classes((0.9, 0, 0.1)), drawn("#### ???? .... ==.."))
    assert ids == [[1] * 4, [0] * 4, [0] * 4, [1, 1, 0, 0]]
    assert segments[0]["area"] == 6


def test_void_queries_and_weak_queries_are_left_out():
    masks = drawn("#### #### #### ####", "##.. ##.. ##.. ##..", "..## ..## ..## ..##")
    mask_cls = classes((0.1, 0.1, 0.8), (0.5, 0.25, 0.25), (0.8, 0.1, 0.1))
    ids, segments = infer(mask_cls, masks, object_mask_threshold=0.6)
    assert ids == [[0, 0, 1, 1]] * 4
    assert len(segments) == 1


def test_the_object_mask_threshold_itself_is_not_enough():
    mask_cls, masks = classes((0.6, 0.2, 0.2)), drawn("##..")
    score = mask_cls.softmax(dim=-1).max().item()
    assert infer(mask_cls, masks, object_mask_threshold=score) == ([[0] * 4], [])
    assert infer(mask_cls, masks, object_mask_threshold=score - 1e-6)[0] == [[1, 1, 0, 0]]


def test_merged_stuff_has_the_source_of_its_largest_part():
    masks, mask_cls = drawn("##.. ....", "..## ####"), classes((0, 0.9, 0.1), (0, 0.9, 0.1))
    for parts, source in ((masks, "sam"), (masks.flip(0), "decoder")):  # the first mask is the decoder's
        _, (segment,) = infer(mask_cls, parts, num_decoder_masks=1)
        assert (segment["source"], segment["area"]) == (source, 8)


def test_masks_that_carry_a_graph_are_fine():
    ids, _ = infer(classes((0.9, 0, 0.1)).requires_grad_(), drawn("##.. ##..").requires_grad_())
    assert ids == [[1, 1, 0, 0]] * 2


@pytest.mark.parametrize("case", ["all void", "no queries", "empty masks"])
def test_an_image_without_segments_is_all_void(case):
    masks = drawn(".... .... .... ....") if case == "empty masks" else drawn("#### #### #### ####")
    mask_cls = classes((0.0, 0.1, 0.9)) if case == "all void" else classes((0.9, 0.0, 0.1))
    if case == "no queries":
        masks, mask_cls = masks[:0], mask_cls[:0]
    ids, segments = infer(mask_cls, masks)
    assert ids == [[0] * 4] * 4
    assert segments == []


def test_what_goes_to_the_host_does_not_grow_with_the_number_of_queries(monkeypatch):
    transfers: list[str] = []
    for name in ("tolist", "item", "cpu", "__bool__", "__int__", "__float__"):
        plain = getattr(Tensor, name)
        monkeypatch.setattr(
            Tensor, name, lambda self, *a, plain=plain, name=name: transfers.append(name) or plain(self, *a)
        )
    torch.manual_seed(0)
    counts = []
    for queries in (5, 50):
        transfers.clear()
        panoptic_inference(
            torch.randn(queries, 3).log_softmax(-1),
            torch.randn(queries, 8, 8) * 3,
            is_thing=IS_THING,
            object_mask_threshold=0.0,
            overlap_threshold=0.1,
        )
        counts.append(len(transfers))
    assert counts == [1, 1]


def test_masks_made_in_tiles_give_the_image_of_whole_masks(monkeypatch):
    torch.manual_seed(3)
    mask_cls, masks = (torch.randn(9, 3) * 2).log_softmax(-1), torch.randn(9, 8, 10) * 3
    sizes = {"padded": (32, 40), "unpadded": (30, 37), "output": (45, 60)}
    options = {"is_thing": IS_THING, "object_mask_threshold": 0.0, "overlap_threshold": 0.1}
    ids, segments = panoptic_inference(mask_cls, restore_size(masks[None], **sizes)[0], **options)
    assert len(segments) == 2
    for floats in (1, 9 * 60 * 10, 10**9):
        monkeypatch.setattr(resize, "CPU_FLOATS", floats)
        got_ids, got = panoptic_inference(mask_cls, MaskRows(masks, **sizes), **options)
        assert [s["category_id"] for s in got] == [s["category_id"] for s in segments]
        assert (got_ids != ids).float().mean() < 2e-3  # pixels where two masks are equal to rounding


def test_where_memory_runs_out_once_the_image_is_the_same(run_out_of_memory, caplog):
    masks = drawn("#... #... #... ....", "...# ...# .... ....", ".##. .##. .##. ####")
    mask_cls = classes((0.9, 0, 0.1), (0.8, 0, 0.2), (0, 0.7, 0.3))
    wanted = infer(mask_cls, masks)
    calls = run_out_of_memory()
    assert infer(mask_cls, masks) == wanted
    assert calls == [range(0, 4), range(0, 2), range(2, 4)]
    assert caplog.messages == ["out of memory with 4 rows of an image at once; retrying with 2"]
