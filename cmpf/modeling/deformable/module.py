# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The deformable attention layer and the selection of its implementation."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cmpf.errors import ConfigError
from cmpf.modeling.deformable.ops import AttentionFunction, deformable_attention
from cmpf.modeling.layers import softmax_of_few

logger = logging.getLogger(__name__)

IMPLEMENTATIONS = ("auto", "torch", "triton")


def choose_deformable_attention(name: str, device: torch.device) -> AttentionFunction:
    """Selects the implementation for a device and logs it, with the reason if "auto" cannot use Triton on CUDA.

    Args:
        name: "torch"; "triton"; "auto" = Triton on CUDA if its kernels run there, otherwise PyTorch.
        device: the model's device.
    Raises:
        ConfigError: unknown name, or "triton" where its kernels cannot run.
    """
    if name not in IMPLEMENTATIONS:
        raise ConfigError(f'deformable attention "{name}": expected one of {", ".join(IMPLEMENTATIONS)}')
    if name == "torch" or (name == "auto" and device.type != "cuda"):
        logger.info("deformable attention: PyTorch")
        return deformable_attention
    # Imported here, because CPU users do not need Triton.
    from cmpf.modeling.deformable import triton

    issue = triton.triton_issue(device)
    if issue is None:
        logger.info("deformable attention: Triton kernels")
        return triton.triton_deformable_attention
    if name == "triton":
        raise ConfigError(
            f"MODEL.CMPF.DEFORMABLE_ATTENTION triton cannot run here, because {issue}; set it to auto or torch"
        )
    logger.warning("deformable attention: PyTorch instead of Triton kernels, because %s", issue)
    return deformable_attention


class MultiScaleDeformableAttention(nn.Module):
    """Attention in which each query samples a few learned points around its reference point on every level.

    Args:
        dim: width of queries and values.
        heads: number of heads, a divisor of dim.
        points: sampling points per head and level.
        levels: number of feature levels.
        flat_levels: 0 = Deformable DETR's method. N > 0 (with levels = 1) = the arithmetic of the published weights:
            parameters for N levels, whose locations and weights, flattened in the order (position, head, N, point), are
            read with the stride of one level. The output of flat (position, head) index s uses those at flat indices
            points * s .. points * s + points - 1; only the first 1 / N of them are used.
        function: implementation of the attention, see choose_deformable_attention.
    Raises:
        ConfigError: dim is not a multiple of heads, or flat_levels is set with more than one level.
    """

    def __init__(
        self,
        *,
        dim: int,
        heads: int,
        points: int,
        levels: int,
        flat_levels: int = 0,
        function: AttentionFunction = deformable_attention,
    ) -> None:
        super().__init__()
        if dim % heads:
            raise ConfigError(
                f"attention of width {dim} with {heads} heads: the width must be a multiple of the heads"
            )
        if flat_levels and levels != 1:
            raise ConfigError(
                f"flat_levels={flat_levels} reads one level, not {levels}; set flat_levels to 0"
            )
        self.heads, self.points, self.levels, self.flat_levels = heads, points, levels, flat_levels
        self.function = function
        samples = heads * (flat_levels or levels) * points
        self.sampling_offsets = nn.Linear(dim, 2 * samples)
        self.attention_weights = nn.Linear(dim, samples)
        self.value_projection = nn.Linear(dim, dim)
        self.output_projection = nn.Linear(dim, dim)
        self._initialize()

    def forward(
        self,
        query_BQD: Tensor,
        references_BQ2: Tensor,
        value_BSD: Tensor,
        shapes: Sequence[tuple[int, int]],
        sizes_L2: Tensor,
    ) -> Tensor:
        """
        Args:
            query_BQD: queries with position encodings. With flat_levels, Q = S: one query per cell of the map.
            references_BQ2: reference points (x, y) in 0..1; a batch of 1 is broadcast.
            value_BSD: flattened levels, without position encodings.
            shapes: (h, w) of the levels.
            sizes_L2: (w, h) of the levels, as a float tensor on the device; offsets are in cells.
        Returns:
            (B, Q, D).
        """
        B, Q, _ = query_BQD.shape
        value = self.value_projection(value_BSD).view(B, value_BSD.shape[1], self.heads, -1)
        if self.flat_levels:  # only the locations and weights of the first queries are used
            num_used = math.ceil(Q / self.flat_levels)
            query_BQD, references_BQ2 = query_BQD[:, :num_used], references_BQ2[:, :num_used]
        levels = self.flat_levels or self.levels
        offsets = self.sampling_offsets(query_BQD).view(B, -1, self.heads, levels, self.points, 2)
        scores = self.attention_weights(query_BQD).view(B, -1, self.heads, levels * self.points)
        weights = softmax_of_few(scores).view(B, -1, self.heads, levels, self.points)
        # Expanded to the shape of the offsets: broadcasting over an axis of length 2 takes 14 times as long on a CPU.
        sizes = sizes_L2[:, None].expand(self.heads, -1, self.points, -1).contiguous()
        locations = references_BQ2[:, :, None, None, None] + offsets / sizes
        if self.flat_levels:
            locations, weights = self._as_single_level(locations, Q), self._as_single_level(weights, Q)
        output: Tensor = self.output_projection(self.function(value, shapes, locations, weights))
        return output

    def _as_single_level(self, x: Tensor, num_queries: int) -> Tensor:
        """Reinterprets (B, U, M, N, P, ...) for N levels as (B, Q, M, 1, P, ...) for one level, in flat order."""
        groups = x.flatten(1, 3)[:, : num_queries * self.heads]
        return groups.reshape(x.shape[0], num_queries, self.heads, 1, *x.shape[4:])

    def _initialize(self) -> None:
        """Offsets start as a ring: one direction per head, one cell farther for each point. Weights start equal."""
        angles = torch.arange(self.heads, dtype=torch.float32) * (2 * math.pi / self.heads)
        ring = torch.stack([angles.cos(), angles.sin()], dim=-1)
        ring = ring / ring.abs().amax(dim=-1, keepdim=True)
        steps = torch.arange(1, self.points + 1, dtype=torch.float32)
        offsets = ring[:, None, None, :] * steps[:, None]
        offsets = offsets.expand(-1, self.flat_levels or self.levels, -1, -1)
        nn.init.zeros_(self.sampling_offsets.weight)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.reshape(-1))
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_projection, self.output_projection):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)
