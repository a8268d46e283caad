# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Mask-Adapter: for each mask a few learned maps that say where CLIP's features are pooled (CVPR 2025)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmpf.common.tensors import resize_bilinear

EXPANSION = 4  # of the hidden width in a block
CHANNELS = (4, 16)  # of the mask on its way to the map's size
EPSILON = 1e-6
SCALE_INIT = 1e-6
# Largest activation of one pass without gradients, in floats; a 250-query pass over 28 x 28 cells would take 2.4 GB.
FLOATS = 32 * 1024 * 1024


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of each cell of a map (B, C, h, w)."""

    def forward(self, x_BChw: Tensor) -> Tensor:
        """(B, C, h, w) in and out."""
        cells: Tensor = super().forward(x_BChw.permute(0, 2, 3, 1))
        return cells.permute(0, 3, 1, 2)


class Block(nn.Module):
    """ConvNeXt's block: depthwise 7 x 7 convolution, norm, two linear maps per cell, a learned scale, residual."""

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
    """Pooling maps of masks from CLIP's projected map and the masks themselves.

    Args:
        embed_dim: width E of CLIP's space, that of the projected map.
        dim: channels inside. maps: pooling maps of a mask.
        mask_threshold: probability above which a pixel counts as inside a predicted mask.
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
        """Mask logits as 1 inside and 0 outside, in the type of the logits and without gradient."""
        return (masks_BQHW.detach().sigmoid() > self.mask_threshold).to(masks_BQHW.dtype)

    def forward(self, projected_BEhw: Tensor, inside_BQHW: Tensor) -> Tensor:
        """
        Args:
            projected_BEhw: CLIP's map, each cell normalized and projected as a pooled vector is.
            inside_BQHW: float masks of 0 and 1 of any size over the same image.
        Returns:
            (B, Q, maps, h, w) logits of the pooling maps.
        """
        h, w = projected_BEhw.shape[-2:]
        masks = resize_bilinear(inside_BQHW, (4 * h, 4 * w))  # the encoder halves the size twice
        whole = torch.is_grad_enabled() or torch.compiler.is_exporting()
        count = (
            masks.shape[1] if whole else FLOATS // (len(masks) * EXPANSION * self.fuse.out_channels * h * w)
        )
        chunks = torch.split(masks, max(1, count), dim=1)
        return torch.cat([self._maps(projected_BEhw, chunk) for chunk in chunks], dim=1)

    def _maps(self, projected_BEhw: Tensor, masks_BQHW: Tensor) -> Tensor:
        queries = masks_BQHW.shape[1]
        shape = self.mask_encoder(masks_BQHW.flatten(0, 1)[:, None])
        x = self.fuse(projected_BEhw.repeat_interleave(queries, dim=0) + shape)
        maps: Tensor = self.to_maps(self.norm(self.blocks(x)))
        return maps.view(-1, queries, *maps.shape[1:])


def pooling_weights(maps_BQMhw: Tensor) -> Tensor:
    """sigmoid(maps), scaled so that the cells of each map sum to 1; as a softmax, which does not underflow."""
    return F.logsigmoid(maps_BQMhw).flatten(-2).softmax(dim=-1).view(maps_BQMhw.shape)
