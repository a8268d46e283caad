# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""A training sample as published (COCO panoptic, large-scale jitter): the whole image is resized, then cut."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image

from cmpf.types import Sample


class PublishedMapper:
    """Reads, flips, resizes and crops one image with its panoptic PNG; draws what LargeScaleJitter draws.

    Args:
        size: side of the square in pixels. min_scale, max_scale: of the jitter. image_pad: gray of what stays free.
    """

    def __init__(self, *, size: int, min_scale: float, max_scale: float, image_pad: int) -> None:
        self.size, self.image_pad = size, image_pad
        self.min_scale, self.max_scale = min_scale, max_scale

    def __call__(self, sample: Sample, rng: np.random.Generator) -> dict[str, Any]:
        """image (3, S, S) uint8, labels (N,), masks (N, S, S) bool."""
        image = np.asarray(Image.open(sample["file_name"]).convert("RGB"))
        colors = np.asarray(Image.open(sample["pan_seg_file_name"]).convert("RGB")).astype(np.int32)
        ids = colors[..., 0] + 256 * colors[..., 1] + 65536 * colors[..., 2]
        if rng.random() < 0.5:
            image, ids = image[:, ::-1], ids[:, ::-1]
        ratio = rng.uniform(self.min_scale, self.max_scale) * self.size / max(ids.shape)
        height, width = (max(1, round(side * ratio)) for side in ids.shape)
        top = int(rng.integers(0, max(height - self.size, 0), endpoint=True))
        left = int(rng.integers(0, max(width - self.size, 0), endpoint=True))
        image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
        ids = np.asarray(Image.fromarray(ids, mode=None).resize((width, height), Image.Resampling.NEAREST))
        image = image[top : top + self.size, left : left + self.size]
        ids = ids[top : top + self.size, left : left + self.size]
        down, right = self.size - ids.shape[0], self.size - ids.shape[1]
        image = np.pad(image, ((0, down), (0, right), (0, 0)), constant_values=self.image_pad)
        ids = np.pad(ids, ((0, down), (0, right)))
        labels, masks = [], []
        for segment in sample["segments_info"]:
            mask = ids == segment["id"]
            if not segment.get("iscrowd", 0) and mask.any():
                labels.append(segment["category_id"])
                masks.append(torch.from_numpy(mask))
        return {
            "image": torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),
            "labels": torch.tensor(labels, dtype=torch.int64),
            "masks": torch.stack(masks) if masks else torch.zeros(0, self.size, self.size, dtype=torch.bool),
        }
