# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The tiny model with random weights: the classes of the full-size one, in a form that a test can wait for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from cmpf.config import Config, get_cfg
from cmpf.factory import build_model
from cmpf.inference import MaskEnsembleSettings
from cmpf.model import CMPF
from cmpf.types import Sample

RANDOM_WEIGHTS = (
    "MODEL.CMPF.CLIP.PRETRAINED", "",
    "MODEL.CMPF.SAM.CHECKPOINT", "random",
    "TEST.ENSEMBLE.SAM_CHECKPOINT", "random",
    "TEST.ENSEMBLE.POINTS_PER_SIDE", 4,
    "MODEL.DEVICE", "cpu",
    "NUM_THREADS", 1,
)  # fmt: skip


def tiny_config(name: str = "cmpf_tiny", overrides: Sequence[object] = ()) -> Config:
    """A config of configs/shapes with random encoders."""
    return get_cfg(name, [*RANDOM_WEIGHTS, *overrides])


def tiny_model(name: str = "cmpf_tiny", overrides: Sequence[object] = ()) -> CMPF:
    """A model of configs/shapes, the same random weights in every call, in evaluation mode."""
    torch.manual_seed(0)
    return build_model(tiny_config(name, overrides)).eval()


def random_image(height: int = 64, width: int = 96, seed: int = 0) -> torch.Tensor:
    """(3, H, W) uint8 noise, smooth enough that masks differ."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 6, 8, generator=generator) * 255
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)
    return smooth[0].to(torch.uint8)


def training_sample(height: int = 64, width: int = 64, seed: int = 0, targets: int = 3) -> Sample:
    """An image with random rectangles of random seen classes as targets."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(targets, height, width, dtype=torch.bool)
    for mask in masks:
        top, left = (int(torch.randint(0, n // 2, (1,), generator=generator)) for n in (height, width))
        mask[top : top + height // 3, left : left + width // 3] = True
    labels = torch.randint(0, 21, (targets,), generator=generator)
    return {
        "image": random_image(height, width, seed),
        "image_id": seed,
        "targets": {"labels": labels, "masks": masks},
    }


def mask_ensemble(**changes: Any) -> MaskEnsembleSettings:
    """SAM's masks in semantic results, as the paper has them but for what is given."""
    usual: dict[str, Any] = {
        "tasks": frozenset({"semantic"}),
        "alpha": 0.2,
        "score_threshold": 0.5,
        "decoder_share": 0.0,
        "max_overlap": 1.0,
        "overlap_threshold": 0.5,
        "published_pooling": False,
    }
    return MaskEnsembleSettings(**(usual | changes))
