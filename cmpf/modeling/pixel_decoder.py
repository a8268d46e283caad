# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Pixel decoder: computes multi-scale memories and per-pixel mask features from CLIP's feature maps."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from cmpf.common.tensors import resize_bilinear, without_autocast
from cmpf.modeling.deformable.encoder import DeformableEncoder
from cmpf.modeling.deformable.ops import AttentionFunction, deformable_attention
from cmpf.modeling.layers import conv_norm, conv_xavier

ENCODED_LEVELS = ("res5", "res4", "res3")


@dataclass(frozen=True)
class PixelDecoderOutput:
    """Inputs of the transformer decoder.

    mask_features: (B, mask_dim, H/4, W/4); their product with a mask embedding gives mask logits.
    multi_scale: three maps (B, dim, h, w) at strides 32, 16, 8.
    """

    mask_features: Tensor
    multi_scale: list[Tensor]


class PixelDecoder(nn.Module):
    """Deformable encoder over strides 32, 16 and 8, and one FPN step to stride 4 (Mask2Former; paper Sec. 3).

    Args:
        in_channels: channels of "res2".."res5".
        dim: channels of the multi-scale maps.
        mask_dim: channels of the mask features.
        heads, points, layers, dim_feedforward: settings of the deformable encoder.
        norm_groups: number of GroupNorm groups, a divisor of dim.
        attention_function: implementation of deformable attention, see choose_deformable_attention.
        gradient_checkpointing: see DeformableEncoder.
    """

    def __init__(
        self,
        *,
        in_channels: dict[str, int],
        dim: int,
        mask_dim: int,
        heads: int,
        points: int,
        layers: int,
        dim_feedforward: int,
        norm_groups: int,
        attention_function: AttentionFunction = deformable_attention,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.input_projections = nn.ModuleDict(
            {name: conv_norm(in_channels[name], dim, kernel=1, groups=norm_groups) for name in ENCODED_LEVELS}
        )
        self.encoder = DeformableEncoder(
            dim=dim,
            heads=heads,
            points=points,
            levels=len(ENCODED_LEVELS),
            layers=layers,
            dim_feedforward=dim_feedforward,
            function=attention_function,
            gradient_checkpointing=gradient_checkpointing,
        )
        self.lateral = conv_norm(in_channels["res2"], dim, kernel=1, groups=norm_groups, bias=False)
        self.output = conv_norm(dim, dim, kernel=3, groups=norm_groups, bias=False)
        self.mask_projection = conv_xavier(dim, mask_dim)

    def forward(self, levels: dict[str, Tensor]) -> PixelDecoderOutput:
        """Runs in float32 even under autocast: half precision would move the sampling points by whole cells.

        Args:
            levels: CLIP's maps "res2".."res5" at strides 4, 8, 16, 32, each (B, C, h, w).
        """
        with without_autocast(levels["res5"].device):
            projected = [self.input_projections[name](levels[name].float()) for name in ENCODED_LEVELS]
            multi_scale = self.encoder(projected)
            lateral = self.lateral(levels["res2"].float())
            # Contiguous, because a CPU resizes channels-last maps three times as slowly.
            finest = multi_scale[-1].contiguous()
            fused = lateral + resize_bilinear(finest, (lateral.shape[-2], lateral.shape[-1]))
            mask_features = self.mask_projection(F.relu(self.output(fused)))
        return PixelDecoderOutput(mask_features=mask_features, multi_scale=multi_scale)
