# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""SAM branch: computes the Feature Injector's input from SAM's embedding."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from cmpf.common.tensors import without_autocast
from cmpf.modeling.deformable.encoder import DeformableEncoder
from cmpf.modeling.deformable.ops import AttentionFunction, deformable_attention
from cmpf.modeling.layers import conv_norm


class SAMBranch(nn.Module):
    """Downsamples SAM's embedding by 2 and refines it with single-level deformable self-attention (paper Sec. 3).

    Args:
        in_channels: channels S of SAM's embedding.
        dim: output channels.
        heads, points, layers, dim_feedforward: settings of the deformable encoder.
        norm_groups: number of GroupNorm groups, a divisor of dim.
        flat_levels: 0 = correct single-level attention; 3 = the arithmetic of the published weights
            (see MultiScaleDeformableAttention).
        attention_function: implementation of deformable attention, see choose_deformable_attention.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        dim: int,
        heads: int,
        points: int,
        layers: int,
        dim_feedforward: int,
        norm_groups: int,
        flat_levels: int,
        attention_function: AttentionFunction = deformable_attention,
    ) -> None:
        super().__init__()
        self.reduction = conv_norm(in_channels, dim, kernel=3, stride=2, groups=norm_groups)
        self.encoder = DeformableEncoder(
            dim=dim,
            heads=heads,
            points=points,
            levels=1,
            layers=layers,
            dim_feedforward=dim_feedforward,
            flat_levels=flat_levels,
            function=attention_function,
        )

    def forward(self, embedding_BShw: Tensor) -> Tensor:
        """SAM's embedding (B, S, hs, ws) -> features (B, dim, ceil(hs / 2), ceil(ws / 2)), always in float32."""
        with without_autocast(embedding_BShw.device):
            reduced = F.relu(self.reduction(embedding_BShw.float()))
            features: Tensor = self.encoder([reduced])[0]
        return features
