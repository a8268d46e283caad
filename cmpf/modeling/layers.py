# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What the decoders share: post-norm attention and feed-forward layers, MLP, convolution with GroupNorm."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from cmpf.errors import ConfigError
from cmpf.modeling.attention import MultiheadAttention


class AttentionLayer(nn.Module):
    """Attention, residual, LayerNorm. Positions go to queries and keys, never to values."""

    def __init__(self, *, dim: int, heads: int) -> None:
        super().__init__()
        self.attention = MultiheadAttention(dim=dim, heads=heads)
        self.norm = nn.LayerNorm(dim)

    def forward(
        self,
        x_BQD: Tensor,
        *,
        positions_BQD: Tensor,
        keys_BLD: Tensor,
        values_BLD: Tensor,
        attend_BQL: Tensor | None = None,
    ) -> Tensor:
        """
        Args:
            x_BQD: what attends.
            positions_BQD: added to it for attention only; a batch of 1 serves all images.
            keys_BLD: keys, their positions already added. values_BLD: values.
            attend_BQL: see MultiheadAttention.
        Returns:
            (B, Q, D).
        """
        attended = self.attention(x_BQD + positions_BQD, keys_BLD, values_BLD, attend_BQL)
        result: Tensor = self.norm(x_BQD + attended)
        return result


class FeedForwardLayer(nn.Module):
    """Two linear maps with a ReLU between them, residual, LayerNorm."""

    def __init__(self, *, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(dim, hidden_dim)
        self.linear2 = nn.Linear(hidden_dim, dim)
        self.norm = nn.LayerNorm(dim)
        nn.init.xavier_uniform_(self.linear1.weight)
        nn.init.xavier_uniform_(self.linear2.weight)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """(B, L, D) in and out."""
        result: Tensor = self.norm(x_BLD + self.linear2(F.relu(self.linear1(x_BLD))))
        return result


class MLP(nn.Module):
    """Linear layers with ReLU between them.

    Args:
        dims: widths from input to output, at least two.
    """

    def __init__(self, *, dims: tuple[int, ...]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(dims))

    def forward(self, x: Tensor) -> Tensor:
        """(..., dims[0]) -> (..., dims[-1])."""
        last = len(self.layers) - 1
        for index, layer in enumerate(self.layers):
            x = layer(x) if index == last else F.relu(layer(x))
        return x


def conv_norm(
    in_channels: int, out_channels: int, *, kernel: int, groups: int, stride: int = 1, bias: bool = True
) -> nn.Sequential:
    """Convolution (xavier-uniform weight, zero bias) and GroupNorm, without activation.

    Args:
        in_channels, out_channels: widths. kernel: odd; padded so that stride 1 keeps the size.
        groups: groups of the GroupNorm, a divisor of out_channels.
        stride: of the convolution. bias: whether the convolution has one.
    Raises:
        ConfigError: out_channels is not a multiple of groups.
    """
    if out_channels % groups:
        raise ConfigError(
            f"GroupNorm of {out_channels} channels in {groups} groups: use a divisor of the channels"
        )
    conv = conv_xavier(in_channels, out_channels, kernel=kernel, stride=stride, bias=bias)
    return nn.Sequential(conv, nn.GroupNorm(groups, out_channels))


def conv_xavier(
    in_channels: int, out_channels: int, *, kernel: int = 1, stride: int = 1, bias: bool = True
) -> nn.Conv2d:
    """Convolution with xavier-uniform weight and zero bias; an odd kernel at stride 1 keeps the size."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=bias)
    nn.init.xavier_uniform_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv
