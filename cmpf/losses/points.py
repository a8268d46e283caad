# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Points on masks: where to look, and what stands there (PointRend, arXiv 1912.08193).

Coordinates are (x, y) in 0..1 over the whole image, so that maps of any size are read at the same places.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def uniform_points(count: int, num_points: int, device: torch.device) -> Tensor:
    """Random places, (count, P, 2) in 0..1, from torch's global generator of the device."""
    return torch.rand(count, num_points, 2, device=device)


def sample_points(maps_NChw: Tensor, coords_NP2: Tensor) -> Tensor:
    """Bilinear samples, pixel centers at half coordinates, zero outside the map.

    Args:
        maps_NChw: float maps.
        coords_NP2: places, (x, y) in 0..1.
    Returns:
        (N, C, P).
    """
    grid = 2.0 * coords_NP2[:, None] - 1.0
    return F.grid_sample(maps_NChw, grid, mode="bilinear", align_corners=False)[:, :, 0]


@torch.no_grad()
def uncertain_points(
    logits_Mhw: Tensor, *, num_points: int, oversample_ratio: float, importance_sample_ratio: float
) -> Tensor:
    """Places where a mask's loss is worth computing: the most uncertain of many, and some anywhere.

    Args:
        logits_Mhw: mask logits; a small absolute value is uncertain.
        num_points: P, wanted places a mask.
        oversample_ratio: candidates drawn for each wanted place, at least 1.
        importance_sample_ratio: share of the places that are the most uncertain candidates, 0..1.
    Returns:
        (M, P, 2).
    """
    count, device = logits_Mhw.shape[0], logits_Mhw.device
    chosen = int(importance_sample_ratio * num_points)
    candidates = uniform_points(count, int(oversample_ratio * num_points), device)
    uncertainty = -sample_points(logits_Mhw[:, None], candidates)[:, 0].abs()
    best = uncertainty.topk(chosen, dim=1, sorted=False).indices
    uncertain = candidates.gather(1, best[..., None].expand(-1, -1, 2))
    return torch.cat([uncertain, uniform_points(count, num_points - chosen, device)], dim=1)
