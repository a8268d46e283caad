# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Mask-Adapter: learned pooling maps of CLIP's features for each mask (CVPR 2025)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmpf.common.tensors import resize_bilinear

EXPANSION = 4  # hidden width of a block over its width
CHANNELS = (4, 16)  # of the mask encoder's two strided convolutions
EPSILON = 1e-6
SCALE_INIT = 1e-6
# Limit of the largest activation without gradients, in floats; 250 queries at once over 28 x 28 would take 2.4 GB.
FLOATS = 32 * 1024 * 1024


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of a feature map (B, C, h, w)."""

    def forward(self, x_BChw: Tensor) -> Tensor:
        """(B, C, h, w) in and out."""
        cells: Tensor = super().forward(x_BChw.permute(0, 2, 3, 1))
        return cells.permute(0, 3, 1, 2)


class Block(nn.Module):
    """ConvNeXt block: depthwise 7 x 7 convolution, LayerNorm, two linear layers, layer scale, residual connection."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=EPSILON)
        self.expand = nn.Linear(dim, EXPANSION * dim)
        self.contract = nn.Linear(EXPANSION * dim, dim)
        self.gamma = nn.Parameter(torch.full((dim,), SCALE_INIT))

    def forward(self, x_BChw: Tensor) -> Tensor:
        """(B, C, h, w) in and out."""
        cells = self.norm(self.depthwise(x_BChw).permute(0, 2, 3, 1))
        change = self.gamma * self.contract(F.gelu(self.expand(cells)))
        result: Tensor = x_BChw + change.permute(0, 3, 1, 2)
        return result


class MaskAdapter(nn.Module):
    """Predicts pooling maps from CLIP's projected feature map and a mask.

    Args:
        embed_dim: width E of CLIP's joint space and of the projected feature map.
        dim: width of the blocks.
        maps: number of pooling maps per mask.
        mask_threshold: probability above which a pixel is inside a predicted mask.
    """

    def __init__(self, *, embed_dim: int, dim: int, maps: int, mask_threshold: float) -> None:
        super().__init__()
        self.mask_threshold = mask_threshold
        first, second = CHANNELS
        self.mask_encoder = nn.Sequential(
            nn.Conv2d(1, first, 3, stride=2, padding=1),
            ChannelNorm(first, eps=EPSILON),
            nn.GELU(),
            nn.Conv2d(first, second, 3, stride=2, padding=1),
            ChannelNorm(second, eps=EPSILON),
            nn.GELU(),
            nn.Conv2d(second, embed_dim, 1),
        )
        self.fuse = nn.Conv2d(embed_dim, dim, 1)
        self.blocks = nn.Sequential(*(Block(dim) for _ in range(3)))
        self.norm = ChannelNorm(dim)
        self.to_maps = nn.Conv2d(dim, maps, 1)

    def inside(self, masks_BQHW: Tensor) -> Tensor:
        """Binarizes mask logits to 0 and 1 in their dtype, without gradient."""
        return (masks_BQHW.detach().sigmoid() > self.mask_threshold).to(masks_BQHW.dtype)

    def forward(self, projected_BEhw: Tensor, inside_BQHW: Tensor) -> Tensor:
        """
        Args:
            projected_BEhw: CLIP's feature map projected to the joint space, see CLIP.project_map.
            inside_BQHW: binary float masks of any size over the same image.
        Returns:
            (B, Q, maps, h, w) logits of the pooling maps.
        """
        h, w = projected_BEhw.shape[-2:]
        masks = resize_bilinear(inside_BQHW, (4 * h, 4 * w))  # the mask encoder has stride 4
        chunk_size = masks.shape[1]
        if not (torch.is_grad_enabled() or torch.compiler.is_exporting()):
            chunk_size = FLOATS // (len(masks) * EXPANSION * self.fuse.out_channels * h * w)
        chunks = torch.split(masks, max(1, chunk_size), dim=1)
        return torch.cat([self._predict_maps(projected_BEhw, chunk) for chunk in chunks], dim=1)

    def _predict_maps(self, projected_BEhw: Tensor, masks_BQHW: Tensor) -> Tensor:
        queries = masks_BQHW.shape[1]
        mask_features = self.mask_encoder(masks_BQHW.flatten(0, 1)[:, None])
        x = self.fuse(projected_BEhw.repeat_interleave(queries, dim=0) + mask_features)
        maps: Tensor = self.to_maps(self.norm(self.blocks(x)))
        return maps.view(-1, queries, *maps.shape[1:])


def pooling_weights(maps_BQMhw: Tensor) -> Tensor:
    """sigmoid(maps) normalized to sum to 1 over each map, computed in the log domain, where it does not underflow."""
    return F.logsigmoid(maps_BQMhw).flatten(-2).softmax(dim=-1).view(maps_BQMhw.shape)
