# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The data loader: training samples from files, in this process."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.harness import Pair
from benchmarks.published.mapper import PublishedMapper
from benchmarks.setting import Setting, blobs
from cmpf.data import DatasetMapper, LargeScaleJitter, PanopticTargets, RandomHorizontalFlip
from cmpf.types import Sample, SegmentInfo

IMAGES = 4


def training_samples(setting: Setting) -> Pair:
    """Four JPEGs of 480 x 640 with panoptic PNGs of 12 segments, jittered to 1024 x 1024 (quick: 128)."""
    size = setting.pick(1024, 128)
    # Lives as long as the functions that read from it.
    folder = tempfile.TemporaryDirectory(prefix="cmpf_benchmark_")
    samples = [_sample(Path(folder.name), setting, index) for index in range(IMAGES)]
    jitter: dict[str, Any] = {"size": size, "min_scale": 0.1, "max_scale": 2.0}
    mapper = DatasetMapper(
        augmentations=[RandomHorizontalFlip(), LargeScaleJitter(**jitter)],
        target=PanopticTargets(),
        image_pad=128,
    )
    plain = PublishedMapper(**jitter, image_pad=128)

    def ours() -> Any:
        mapped = [mapper(sample, np.random.default_rng(i)) for i, sample in enumerate(samples)]
        return [
            (sample["image"], sample["targets"]["labels"], sample["targets"]["masks"]) for sample in mapped
        ]

    def published() -> Any:
        assert folder  # held open
        mapped = [plain(sample, np.random.default_rng(i)) for i, sample in enumerate(samples)]
        return [(sample["image"], sample["labels"], sample["masks"]) for sample in mapped]

    # Two gray values of 255: one resize computes the window, the other the image and then cuts.
    return Pair(ours=ours, published=published, tolerance=2.1 / 255, share=1e-2)


def _sample(folder: Path, setting: Setting, index: int) -> Sample:
    """An image of smooth noise and segments."""
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
