# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Cases of training: matching and losses, and loading samples from files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.harness import Pair
from benchmarks.published import training as plain_training
from benchmarks.setting import Setting, blobs
from cmpf.data import DatasetMapper, LargeScaleJitter, PanopticTargets, RandomHorizontalFlip
from cmpf.losses import HungarianMatcher, SetCriterion
from cmpf.types import DecoderOutput, Sample, SegmentInfo, Targets

HEADS = 10
IMAGES = 4


def losses(setting: Setting) -> Pair:
    """Ten heads, two images of 768 x 768 with 20 and 12 targets, 133 classes, 12,544 points."""
    queries, side, points = setting.pick((250, 768, 12544), (40, 128, 512))
    criterion = build_criterion(133, points)
    counts = (20, 12)
    targets: list[Targets] = [
        {
            "labels": torch.arange(count, device=setting.device) * 5,
            "masks": blobs(setting, count, (side, side), seed=count) > 0,
        }
        for count in counts
    ]
    logits = setting.random(2, HEADS * queries, 134).requires_grad_()
    masks = torch.stack([blobs(setting, HEADS * queries, (side // 4, side // 4), seed=i) for i in range(2)])
    masks.requires_grad_()

    def outputs() -> DecoderOutput:
        """Outputs as a decoder computes them: all heads are chunks of one tensor."""
        heads = zip(*((2 * x).chunk(HEADS, dim=1) for x in (logits, masks)), strict=True)
        *earlier, last = ({"pred_logits": a, "pred_masks": b} for a, b in heads)
        return {**last, "aux_outputs": earlier}  # type: ignore[typeddict-item]

    def with_gradients(values: dict[str, Tensor]) -> Any:
        return values, torch.autograd.grad(sum(values.values()), [logits, masks])  # type: ignore[arg-type]

    def ours() -> Any:
        return with_gradients(criterion(outputs(), targets))

    def published(draw: plain_training.Draw = plain_training.draw_uniform) -> Any:
        return with_gradients(plain_training.losses(criterion, outputs(), targets, draw=draw))

    def ours_fixed() -> Any:
        with fixed_random_points():
            return ours()

    return Pair(
        ours=ours,
        published=published,
        compare=(ours_fixed, lambda: published(fixed_points)),
        tolerance=1e-3,
    )


def build_criterion(classes: int, points: int) -> SetCriterion:
    """A criterion with the published weights and ratios."""
    return SetCriterion(
        num_classes=classes,
        matcher=HungarianMatcher(class_weight=2.0, mask_weight=5.0, dice_weight=5.0, num_points=points),
        class_weight=2.0,
        mask_weight=5.0,
        dice_weight=5.0,
        no_object_weight=0.1,
        num_points=points,
        oversample_ratio=3.0,
        importance_sample_ratio=0.75,
    )


def fixed_points(count: int, points: int, device: torch.device) -> Tensor:
    """Replaces random points (count, points, 2) by the same ones for every call and mask."""
    return _points(points).to(device).expand(count, -1, -1)


@contextmanager
def fixed_random_points() -> Iterator[None]:
    """Makes CMPF's matching and losses use `fixed_points` within the block."""
    with patch("cmpf.losses.matcher.uniform_points", fixed_points):
        yield


@lru_cache(maxsize=8)
def _points(points: int) -> Tensor:
    return torch.rand(1, points, 2, generator=torch.Generator().manual_seed(points))


def training_samples(setting: Setting) -> Pair:
    """Four JPEGs of 480 x 640 with panoptic PNGs of 12 segments, jittered to 1024 x 1024 (quick: 128)."""
    size = setting.pick(1024, 128)
    # The folder exists as long as the functions that refer to it.
    folder = tempfile.TemporaryDirectory(prefix="cmpf_benchmark_")
    samples = [_sample(Path(folder.name), setting, index) for index in range(IMAGES)]
    jitter: dict[str, Any] = {"size": size, "min_scale": 0.1, "max_scale": 2.0}
    mapper = DatasetMapper(
        augmentations=[RandomHorizontalFlip(), LargeScaleJitter(**jitter)],
        target=PanopticTargets(),
        image_pad=128,
    )
    plain = plain_training.PublishedMapper(**jitter, image_pad=128)

    def ours() -> Any:
        mapped = [mapper(sample, np.random.default_rng(i)) for i, sample in enumerate(samples)]
        return [
            (sample["image"], sample["targets"]["labels"], sample["targets"]["masks"]) for sample in mapped
        ]

    def published() -> Any:
        assert folder  # keeps a reference
        mapped = [plain(sample, np.random.default_rng(i)) for i, sample in enumerate(samples)]
        return [(sample["image"], sample["labels"], sample["masks"]) for sample in mapped]

    # Two gray values of 255: CMPF resizes only the cropped window, the published code the whole image.
    return Pair(ours=ours, published=published, tolerance=2.1 / 255, share=1e-2)


def _sample(folder: Path, setting: Setting, index: int) -> Sample:
    """A JPEG of smooth noise with a panoptic PNG of 12 segments."""
    height, width = setting.pick((480, 640), (120, 160))
    masks = blobs(setting, 12, (height, width), seed=index).cpu().numpy()
    ids = np.where(masks.max(axis=0) > 0, 1 + masks.argmax(axis=0), 0).astype(np.uint8)
    generator = np.random.default_rng(index)
    coarse = Image.fromarray(generator.integers(0, 255, (12, 16, 3), dtype=np.uint8))
    coarse.resize((width, height), Image.Resampling.BICUBIC).save(folder / f"{index}.jpg", quality=90)
    colors = np.stack([ids, np.zeros_like(ids), np.zeros_like(ids)], axis=-1)
    Image.fromarray(colors).save(folder / f"{index}.png")
    segments: list[SegmentInfo] = [
        {"id": int(i), "category_id": int(i), "iscrowd": 0} for i in np.unique(ids) if i
    ]
    return {
        "file_name": str(folder / f"{index}.jpg"),
        "pan_seg_file_name": str(folder / f"{index}.png"),
        "height": height,
        "width": width,
        "segments_info": segments,
    }
