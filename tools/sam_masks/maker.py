# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""SAM's masks of one image, made and written as an evaluation would read them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from cmpf.config import Config
from cmpf.data import DatasetMapper, ResizeShortestEdge
from cmpf.errors import DatasetError, ImageError
from cmpf.factory.encoders import build_online_masks, build_proposal_cache
from tools.sam_masks.images import SourceImage

MADE, KEPT, DAMAGED = "made", "kept", "damaged"


@dataclass(frozen=True)
class Outcome:
    """What became of an image: MADE, KEPT (it was there) or DAMAGED (the message says why)."""

    file: str
    kind: str
    message: str = ""


class MaskMaker:
    """Makes what is not there yet.

    Args:
        cfg: mask SAM and its thresholds.
        output: folder of the cache.
        device: where SAM runs.
    """

    def __init__(self, cfg: Config, *, output: str, device: torch.device) -> None:
        self._masks = build_online_masks(cfg, None).to(device)
        self._device = device
        self._cache = build_proposal_cache(cfg, output, sam_hash=self._masks.proposer.encoder.weights_hash)

    def __call__(self, source: SourceImage) -> Outcome:
        """
        Raises:
            EvaluationError: masks of this image are there, but with other settings.
        """
        try:
            image = _read(source)
            if self._cache.holds(source.file, (image.shape[-2], image.shape[-1])):
                return Outcome(source.file, KEPT)
        except (ImageError, DatasetError) as error:
            return Outcome(source.file, DAMAGED, str(error))
        self._cache.store(source.file, self._masks.propose(image, device=self._device))
        return Outcome(source.file, MADE)


def _read(source: SourceImage) -> torch.Tensor:
    """The image (3, H, W) as an evaluation gives it to the model."""
    short_side, max_side = source.test_size
    resize = ResizeShortestEdge(short_side=short_side, max_side=max_side)
    mapper = DatasetMapper(augmentations=[resize], target=None, image_pad=0)
    return mapper({"file_name": source.file}, np.random.default_rng(0))["image"]
