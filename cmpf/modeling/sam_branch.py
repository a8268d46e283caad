# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""SAM branch: SAM's embedding, made into spatial features for the Feature Injector."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from cmpf.common.tensors import without_autocast
from cmpf.modeling.deformable.encoder import DeformableEncoder
from cmpf.modeling.deformable.ops import AttentionFunction, deformable_attention
from cmpf.modeling.layers import conv_norm


class SAMBranch(nn.Module):
    """Halves SAM's embedding and refines it with single-level deformable self-attention (paper Sec. 3).

    Args:
        in_channels: channels S of SAM's embedding.
        dim: width of the result.
        heads, points, layers, dim_feedforward: of the deformable encoder.
        norm_groups: groups of the GroupNorm, a divisor of dim.
        flat_levels: 0 = correct single-level attention; 3 = the arithmetic of the published weights
            (see MultiScaleDeformableAttention).
        attention_function: of the deformable encoder, see choose_deformable_attention.
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
        """SAM's embedding (B, S, hs, ws) -> features (B, dim, hs / 2, ws / 2), rounded up; float32 always."""
        with without_autocast(embedding_BShw.device):
            reduced = F.relu(self.reduction(embedding_BShw.float()))
            features: Tensor = self.encoder([reduced])[0]
        return features
