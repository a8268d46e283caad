# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Points on masks: where to look, and what stands there (PointRend, arXiv 1912.08193).

Coordinates are (x, y) in 0..1 over the whole image, so that maps of any size are read at the same points.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def uniform_points(count: int, num_points: int, device: torch.device) -> Tensor:
    """Random points, (count, P, 2) in 0..1, from torch's global generator of the device."""
    return torch.rand(count, num_points, 2, device=device)


def sample_points(maps_NChw: Tensor, coords_NP2: Tensor) -> Tensor:
    """Bilinear samples, pixel centers at half coordinates, zero outside the map.

    Args:
        maps_NChw: float maps.
        coords_NP2: points, (x, y) in 0..1.
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
        num_points: P, wanted points per mask.
        oversample_ratio: candidates drawn for each wanted point, at least 1.
        importance_sample_ratio: share of the points that are the most uncertain candidates, 0..1.
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


class TargetMasks:
    """Masks of all images of a batch, numbered through: image 0's first.

    They stay one byte per pixel in one flat row: a padded float copy of a batch of 1024 x 1024 images with 60
    masks each would take 4 GB.

    Args:
        masks: one (N, H, W) bool tensor per image; N, H and W may differ.
    """

    def __init__(self, masks: Sequence[Tensor]) -> None:
        device = masks[0].device
        self._values = torch.cat([mask.reshape(-1) for mask in masks])
        rows = [(mask.shape[1], mask.shape[2]) for mask in masks for _ in range(mask.shape[0])]
        sizes = torch.tensor(rows, dtype=torch.int64).reshape(-1, 2)
        area = sizes.prod(dim=1)
        self._start = (area.cumsum(0) - area).to(device)
        self._height, self._width = sizes.to(device).unbind(dim=1)

    def sample(self, index_M: Tensor, coords_MP2: Tensor) -> Tensor:
        """Bilinear samples, the same arithmetic as `sample_points`.

        Args:
            index_M: which mask, in the numbering of the batch.
            coords_MP2: points, (x, y) in 0..1.
        Returns:
            (M, P) float32 in 0..1.
        """
        start, height, width = (
            values[index_M][:, None] for values in (self._start, self._height, self._width)
        )
        columns = _neighbors(coords_MP2[..., 0], width)
        total = torch.zeros(coords_MP2.shape[:2], device=coords_MP2.device)
        for row, row_weight in _neighbors(coords_MP2[..., 1], height):
            line = torch.addcmul(start, row, width)
            for column, column_weight in columns:
                index = (line + column).flatten()  # index_select is several times faster than indexing here
                values = self._values.index_select(0, index).view_as(total)
                total.addcmul_(values.to(total.dtype), row_weight * column_weight)
        return total


def _neighbors(coords_MP: Tensor, size_M1: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The two cells around each coordinate along one axis, and their weights: 0 outside the mask."""
    position = torch.addcmul(torch.full_like(coords_MP, -0.5), coords_MP, size_M1)
    lower = position.floor()
    fraction = position - lower
    cell = lower.long()
    # A coordinate in 0..1 lies at most half a cell outside: only cells -1 and `size` can be.
    has_upper = cell < size_M1 - 1
    return [
        (cell.clamp(min=0), (1 - fraction) * (cell >= 0)),
        (cell + has_upper, fraction * has_upper),
    ]
