# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""CLIP's ConvNeXt image tower: maps at four strides, and masks projected by average pooling."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from cmpf.common.tensors import mask_pooling, resize_bilinear
from cmpf.types import CLIPFeatures


class ConvNeXtBackbone:
    """A view of OpenCLIP's `TimmModel` with a ConvNeXt trunk; it holds no weights of its own.

    Args:
        visual: OpenCLIP's tower: `visual.trunk` is timm's ConvNeXt, `visual.head` OpenCLIP's projection.
    """

    embeds_empty_masks = True  # as the projection of a zero vector

    def __init__(self, visual: Any) -> None:
        self.visual = visual
        infos = visual.trunk.feature_info
        self.channels: dict[str, int] = {
            f"res{level}": info["num_chs"] for level, info in enumerate(infos, start=2)
        }
        self.dense_channels: int = visual.trunk.num_features

    def features(self, images_B3HW: Tensor) -> CLIPFeatures:
        """Outputs of the four stages, and the last one after the trunk's final normalization."""
        trunk = self.visual.trunk
        x = trunk.stem(images_B3HW)
        levels = {}
        for level, stage in enumerate(trunk.stages, start=2):
            x = levels[f"res{level}"] = stage(x)
        return CLIPFeatures(levels=levels, dense=trunk.norm_pre(x))

    def embed_masks(self, dense_BChw: Tensor, masks_BQHW: Tensor) -> tuple[Tensor, Tensor]:
        """Mean of the dense map inside each mask, then the heads that CLIP applies to its own pooled map.

        Returns:
            (B, Q, E) and (B, Q) bool valid. An empty mask gives the projection of a zero vector.
        """
        masks = resize_bilinear(masks_BQHW, (dense_BChw.shape[-2], dense_BChw.shape[-1]))
        pooled = mask_pooling(dense_BChw, masks)
        # The heads expect a map: one of a single cell, which their own pooling leaves as it is.
        projected = self.visual.head(self.visual.trunk.head(pooled.flatten(0, 1)[..., None, None]))
        return projected.unflatten(0, pooled.shape[:2]), (masks > 0).flatten(2).any(dim=-1)
