# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Cases of post-processing, from masks to results at the size of the image."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.harness import Pair
from benchmarks.published import postprocess as published
from benchmarks.setting import Setting, blobs, confident
from cmpf.inference import MaskRows, instance_inference, panoptic_inference, semantic_labels

QUERIES, CONFIDENT_QUERIES = 250, 60
FLOAT = 4  # bytes
Size = tuple[int, int]


def semantic(setting: Setting, classes: int, size: Size) -> Pair:
    """Labels; the published formulation needs masks, their sigmoids and the scores of all classes at full size."""
    queries, sizes = _sizes(setting, size)
    mask_cls = confident(setting, queries, classes, count=min(CONFIDENT_QUERIES, queries))
    masks = blobs(setting, queries, _quarter(sizes.padded))
    weights = mask_cls.softmax(dim=-1)[:, :-1]
    height, width = sizes.output
    return Pair(
        ours=lambda: semantic_labels(weights, MaskRows(masks, **sizes._asdict()), output=sizes.output),
        published=lambda: published.semantic(mask_cls, published.restore(masks, sizes)),
        tolerance=0.0,
        share=2e-3,  # pixels where rounding decides between two classes
        published_bytes=(2 * queries + classes) * height * width * FLOAT,
    )


def panoptic(setting: Setting, size: Size) -> Pair:
    """Ids and classes of segments; CMPF resizes only the kept masks, a tile of rows at a time."""
    queries, sizes = _sizes(setting, size)
    mask_cls = confident(setting, queries, 133, count=min(CONFIDENT_QUERIES, queries))
    masks = blobs(setting, queries, _quarter(sizes.padded))
    options: dict[str, Any] = {
        "is_thing": torch.arange(133, device=setting.device) < 80,
        "object_mask_threshold": 0.8,
        "overlap_threshold": 0.8,
    }

    def ours() -> Any:
        ids, segments = panoptic_inference(mask_cls, MaskRows(masks, **sizes._asdict()), **options)
        return {"ids": ids, "classes": torch.tensor([segment["category_id"] for segment in segments])}

    def plain() -> Any:
        ids, classes = published.panoptic(mask_cls, published.restore(masks, sizes), **options)
        return {"ids": ids, "classes": torch.tensor(classes)}

    return Pair(
        ours=ours,
        published=plain,
        tolerance=0.0,
        share=2e-3,
        published_bytes=3 * queries * sizes.output[0] * sizes.output[1] * FLOAT,
    )


def instance(setting: Setting, size: Size) -> Pair:
    """The 100 best things; CMPF resizes only their masks, a tile of rows at a time."""
    queries, sizes = _sizes(setting, size)
    mask_cls = confident(setting, queries, 133, count=min(CONFIDENT_QUERIES, queries), seed=1)
    masks = blobs(setting, queries, _quarter(sizes.padded), seed=1)
    is_thing = torch.arange(133, device=setting.device) < 80

    def ours() -> Any:
        rows = MaskRows(masks, **sizes._asdict())
        result = instance_inference(mask_cls, rows, topk=100, is_thing=is_thing)
        return {"scores": result.scores, "classes": result.pred_classes, "masks": result.pred_masks}

    def plain() -> Any:
        restored = published.restore(masks, sizes)
        scores, classes, inside = published.instances(mask_cls, restored, topk=100, is_thing=is_thing)
        return {"scores": scores, "classes": classes, "masks": inside}

    return Pair(
        ours=ours,
        published=plain,
        tolerance=1e-4,
        share=2e-3,
        published_bytes=4 * queries * sizes.output[0] * sizes.output[1] * FLOAT,
    )


def _sizes(setting: Setting, size: Size) -> tuple[int, published.Sizes]:
    """Number of queries, and the sizes of an image that is padded to multiples of 32 but not resized."""
    height, width = (side // setting.pick(1, 8) for side in size)
    padded = (-(-height // 32) * 32, -(-width // 32) * 32)
    return setting.pick(QUERIES, 30), published.Sizes(padded, (height, width), (height, width))


def _quarter(size: Size) -> Size:
    return size[0] // 4, size[1] // 4
