# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Images that show how a training goes: ground truth beside what the model finds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from cmpf.engine.writers import Images
from cmpf.model import CMPF
from cmpf.types import Sample, SegmentInfo, Targets
from cmpf.visualization import draw_panoptic


def image_drawer(model: CMPF, *, count: int) -> Callable[[Sequence[Sample]], Images]:
    """A function that draws the first images of a training batch: on the left the targets, on the right the panoptic
    prediction over the training vocabulary.

    Args:
        model: in evaluation mode when the function is called.
        count: images at most.
    """
    settings = replace(
        model.settings,
        panoptic=True,
        semantic=False,
        instance=False,
        mask_ensemble=None,
        proposals=False,
    )
    names = model.train_vocabulary.names

    def draw(batch: Sequence[Sample]) -> Images:
        chosen = batch[:count]
        with torch.no_grad():
            results = model.infer([{"image": sample["image"]} for sample in chosen], settings=settings)
        images: dict[str, NDArray[np.uint8]] = {}
        for number, (sample, result) in enumerate(zip(chosen, results, strict=True)):
            image = sample["image"].permute(1, 2, 0).to(torch.uint8).cpu().numpy()
            ids, segments = result["panoptic_seg"]
            halves = [
                draw_panoptic(image, *target_segments(sample["targets"]), names=names),
                draw_panoptic(image, ids.cpu().numpy(), segments, names=names),
            ]
            images[f"training/image_{number}"] = np.hstack([np.asarray(half) for half in halves])
        return images

    return draw


def target_segments(targets: Targets) -> tuple[NDArray[np.int32], list[SegmentInfo]]:
    """Targets as segments: ids (H, W), 0 = none, and what each one is. Where masks overlap the last one shows."""
    masks, labels = targets["masks"].cpu().numpy(), targets["labels"].tolist()
    ids = np.zeros(masks.shape[1:], dtype=np.int32)
    for number, mask in enumerate(masks, start=1):
        ids[mask] = number
    return ids, [{"id": number, "category_id": label} for number, label in enumerate(labels, start=1)]
