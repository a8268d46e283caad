# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Region features of tiny CLIP: what inference does, and masks as imperfect as a decoder's for training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmpf.common.tensors import mask_pooling, resize_bilinear
from tools.tiny_training.scenes import CLIP_MEAN, CLIP_STD, network_input


def dense_features(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Maps of the frozen trunk's third stage and of its end, as inference reads them.

    Args:
        images: (B, 3, P, P), 0..255.
    Returns:
        (B, 128, 16, 16) and (B, 192, 8, 8), float32.
    """
    clip: Any = model
    trunk = clip.visual.trunk
    x = network_input(images, mean=CLIP_MEAN, std=CLIP_STD)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=model.training):
        x = trunk.stem(x)
        for stage in trunk.stages[:3]:
            x = stage(x)
        dense = trunk.norm_pre(trunk.stages[3](x))
    return x.float(), dense.float()


def project(model: nn.Module, pooled_NC: Tensor) -> Tensor:
    """Pooled vectors of the dense map in CLIP's joint space, L2-normalized: (N, E)."""
    clip: Any = model
    return F.normalize(clip.visual.head(clip.visual.trunk.head(pooled_NC[:, :, None, None])), dim=-1)


def mask_logits(masks: Tensor) -> Tensor:
    """Ground-truth masks (B, S, P, P) bool as logits -1 and 1."""
    return masks.float() * 2 - 1


def _whole(masks: Tensor, side: int) -> Tensor:
    return (resize_bilinear(mask_logits(masks), (side, side)) > 0).float()


def imperfect_masks(masks: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Cells of a coarse map for each mask, varied so that naming does not depend on a perfect mask.

    Half of the masks are cut as in inference. The others take the cells of which more than a random share is
    covered, from bloated to eroded, and every second one of these loses half of its cells.

    Args:
        masks: (B, S, P, P) bool.
        side: of the map.
        generator: source of all choices.
    Returns:
        (B, S, side, side) float, 0 or 1; a mask that comes out empty is cut as in inference.
    """
    whole = _whole(masks, side)
    count = masks.shape[:2]
    share = F.adaptive_avg_pool2d(masks.float(), side)
    threshold = 0.1 + 0.7 * torch.rand(count, generator=generator)
    varied = (share > threshold[..., None, None]).float()
    keep = torch.rand(varied.shape, generator=generator) < 0.5
    thinned = torch.rand(count, generator=generator) < 0.5
    varied = torch.where(thinned[..., None, None], varied * keep, varied)
    use = (torch.rand(count, generator=generator) < 0.5) & (varied.sum(dim=(-2, -1)) > 0)
    return torch.where(use[..., None, None], varied, whole)


def pool_cells(features: Tensor, cells: Tensor) -> Tensor:
    """Mean feature (B, S, C) of the chosen cells (B, S, h, w), 0 or 1."""
    return mask_pooling(features, cells * 2 - 1)
