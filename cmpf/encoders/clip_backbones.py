# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""CLIP's convolutional image encoders: feature maps at four strides, and mask embeddings by each encoder's pooling."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cmpf.common.tensors import mask_pooling, resize_bilinear
from cmpf.errors import ConfigError
from cmpf.types import CLIPFeatures

NO_CELLS = (
    "a ResNet CLIP pools by attention and cannot project the cells of its map, which MODEL.CMPF.MASK_EMBEDDING "
    "mask_adapter and MODEL.CMPF.TEXT_TRANSFER content_dependent read; choose a ConvNeXt CLIP, or pool and none"
)


class ConvNeXtBackbone:
    """Wrapper of OpenCLIP's `TimmModel` with a ConvNeXt trunk, without own weights.

    Args:
        visual: OpenCLIP's image encoder: `visual.trunk` is timm's ConvNeXt, `visual.head` OpenCLIP's projection.
    """

    embeds_empty_masks = True  # to the projection of a zero vector

    def __init__(self, visual: Any) -> None:
        self.visual = visual
        infos = visual.trunk.feature_info
        self.channels: dict[str, int] = {
            f"res{level}": info["num_chs"] for level, info in enumerate(infos, start=2)
        }
        self.dense_channels: int = visual.trunk.num_features

    def trunk(self) -> tuple[nn.Module, ...]:
        """Modules that `train_trunk` unfreezes: the stem and the stages, not the heads."""
        return self.visual.trunk.stem, self.visual.trunk.stages

    def features(self, images_B3HW: Tensor) -> CLIPFeatures:
        """Outputs of the four stages; `dense` is the last one after the trunk's final normalization."""
        trunk = self.visual.trunk
        x = trunk.stem(images_B3HW)
        levels = {}
        for level, stage in enumerate(trunk.stages, start=2):
            x = levels[f"res{level}"] = stage(x)
        return CLIPFeatures(levels=levels, dense=trunk.norm_pre(x))

    def embed_masks(self, dense_BChw: Tensor, masks_BQHW: Tensor) -> tuple[Tensor, Tensor]:
        """Averages the dense feature map inside each mask and applies CLIP's heads.

        Returns:
            (B, Q, E) and (B, Q) bool valid. For an empty mask the projection of a zero vector.
        """
        masks = resize_bilinear(masks_BQHW, (dense_BChw.shape[-2], dense_BChw.shape[-1]))
        pooled = mask_pooling(dense_BChw, masks)
        return self._project(pooled), (masks > 0).flatten(2).any(dim=-1)

    def embed_maps(self, dense_BChw: Tensor, weights_BNhw: Tensor) -> Tensor:
        """Applies CLIP's heads to weighted sums of the dense feature map; (B, N, E)."""
        return self._project(torch.einsum("bchw,bnhw->bnc", dense_BChw, weights_BNhw))

    def project_map(self, dense_BChw: Tensor, *, published_layout: bool) -> Tensor:
        """Applies CLIP's heads to each cell of the dense feature map; (B, E, h, w)."""
        batch, channels, h, w = dense_BChw.shape
        if published_layout:
            cells = dense_BChw.reshape(batch, h * w, channels)
        else:
            cells = dense_BChw.flatten(2).transpose(1, 2)
        return self._project(cells).transpose(1, 2).reshape(batch, -1, h, w)

    def _project(self, vectors_BNC: Tensor) -> Tensor:
        # The heads pool a feature map first: a 1 x 1 map is unchanged by that.
        projected: Tensor = self.visual.head(
            self.visual.trunk.head(vectors_BNC.flatten(0, 1)[..., None, None])
        )
        return projected.reshape(*vectors_BNC.shape[:2], projected.shape[-1])


class ResNetBackbone:
    """Wrapper of OpenCLIP's `ModifiedResNet`, without own weights."""

    embeds_empty_masks = False  # attention over an empty set of positions is undefined

    def __init__(self, visual: Any) -> None:
        self.visual = visual
        self.channels: dict[str, int] = {
            f"res{level}": layer[-1].bn3.num_features for level, layer in enumerate(self._layers(), start=2)
        }
        self.dense_channels = self.channels["res5"]

    def trunk(self) -> tuple[nn.Module, ...]:
        """Modules that `train_trunk` unfreezes: the stem and the layers, not the attention pool."""
        visual = self.visual
        stem = (visual.conv1, visual.bn1, visual.conv2, visual.bn2, visual.conv3, visual.bn3)
        return (*stem, *self._layers())

    def features(self, images_B3HW: Tensor) -> CLIPFeatures:
        """Outputs of the four layers; `dense` is the last one."""
        x = self.visual.stem(images_B3HW)
        levels = {}
        for level, layer in enumerate(self._layers(), start=2):
            x = levels[f"res{level}"] = layer(x)
        return CLIPFeatures(levels=levels, dense=x)

    def embed_masks(self, dense_BChw: Tensor, masks_BQHW: Tensor) -> tuple[Tensor, Tensor]:
        """Runs the attention pool with one query per mask that attends only inside the mask.

        Returns:
            (B, Q, E) and (B, Q) bool valid. For an empty mask zeros.
        """
        pool = self.visual.attnpool
        heads = pool.num_heads
        masks = resize_bilinear(masks_BQHW, (dense_BChw.shape[-2], dense_BChw.shape[-1]))
        inside_BQP = (masks > 0).flatten(2)
        valid_BQ = inside_BQP.any(dim=-1)
        cells_BPC = dense_BChw.flatten(2).transpose(1, 2)
        query_B1C = cells_BPC.mean(dim=1, keepdim=True) + pool.positional_embedding[0]
        tokens_BPC = cells_BPC + _positions(pool.positional_embedding, dense_BChw)
        query = pool.q_proj(query_B1C).unflatten(-1, (heads, -1)).transpose(1, 2)
        key = pool.k_proj(tokens_BPC).unflatten(-1, (heads, -1)).transpose(1, 2)
        value = pool.v_proj(tokens_BPC).unflatten(-1, (heads, -1)).transpose(1, 2)
        # The query is the same for all masks of an image, so that its scores are computed once.
        scores_Bh1P = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
        # Empty masks attend everywhere, because their softmax would be NaN, and are zeroed below.
        attend_BQP = inside_BQP | ~valid_BQ[..., None]
        weights_BhQP = scores_Bh1P.masked_fill(~attend_BQP[:, None], -torch.inf).softmax(dim=-1)
        embeddings_BQE = pool.c_proj((weights_BhQP @ value).transpose(1, 2).flatten(2))
        return embeddings_BQE * valid_BQ[..., None], valid_BQ

    def embed_maps(self, dense_BChw: Tensor, weights_BNhw: Tensor) -> Tensor:
        """Raises ConfigError, see project_map."""
        raise ConfigError(NO_CELLS)

    def project_map(self, dense_BChw: Tensor, *, published_layout: bool) -> Tensor:
        """Raises ConfigError: an attention pool cannot project single cells."""
        raise ConfigError(NO_CELLS)

    def _layers(self) -> tuple[Any, Any, Any, Any]:
        return self.visual.layer1, self.visual.layer2, self.visual.layer3, self.visual.layer4


def _positions(table: Tensor, dense_BChw: Tensor) -> Tensor:
    """Position embeddings (h * w, C) of the feature map: the table without its first row, resized bilinearly."""
    side = round((table.shape[0] - 1) ** 0.5)
    square = table[1:].T.reshape(1, -1, side, side)
    return resize_bilinear(square, (dense_BChw.shape[-2], dense_BChw.shape[-1]))[0].flatten(1).T
