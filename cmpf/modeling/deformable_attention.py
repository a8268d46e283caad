# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Multi-scale deformable attention (Deformable DETR, arXiv 2010.04159), as batched bilinear sampling."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmpf.errors import ConfigError

logger = logging.getLogger(__name__)

AttentionFunction = Callable[[Tensor, Sequence[tuple[int, int]], Tensor, Tensor], Tensor]
IMPLEMENTATIONS = ("auto", "torch", "triton")


def deformable_attention(
    value_BSMD: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Weighted sum of values read bilinearly at given places of several maps.

    Args:
        value_BSMD: (B, S, M, D) values of M heads; the maps are flattened row by row, one after another.
        shapes: (h, w) of the L maps; S is the sum of h * w.
        locations: (B, Q, M, L, P, 2) places as (x, y), 0..1 from the left or upper to the right or lower
            border of the map; what lies outside reads zeros.
        weights: (B, Q, M, L, P).
    Returns:
        (B, Q, M * D).
    """
    B, S, M, D = value_BSMD.shape
    Q, L, P = locations.shape[1], locations.shape[3], locations.shape[4]
    # Heads are folded into the batch. One point is read at a time: what all points of a level read together
    # does not fit the CPU's caches (measured at inference: half as much time again, and more).
    maps = value_BSMD.permute(0, 2, 3, 1).reshape(B * M, D, S)
    grids = (2 * locations - 1).permute(3, 4, 0, 2, 1, 5).reshape(L, P, B * M, 1, Q, 2)
    point_weights = weights.permute(3, 4, 0, 2, 1).reshape(L, P, B * M, 1, Q)
    total = maps.new_zeros(B * M, D, Q)
    start = 0
    for level, (h, w) in enumerate(shapes):
        level_map = maps[:, :, start : start + h * w].view(B * M, D, h, w)
        for grid, weight in zip(grids[level], point_weights[level], strict=True):
            sampled = F.grid_sample(
                level_map, grid, mode="bilinear", padding_mode="zeros", align_corners=False
            )
            total.addcmul_(sampled[:, :, 0], weight)
        start += h * w
    return total.view(B, M * D, Q).transpose(1, 2)


def choose_deformable_attention(name: str, device: torch.device) -> AttentionFunction:
    """The implementation for a device; says in the log which one, and why not Triton's where that was possible.

    Args:
        name: "torch"; "triton" = Triton's, or PyTorch's with a warning where it cannot run; "auto" = Triton's on CUDA
            where it runs, else PyTorch's.
        device: where the model will run.
    Raises:
        ConfigError: no such name.
    """
    if name not in IMPLEMENTATIONS:
        raise ConfigError(f'deformable attention "{name}": expected one of {", ".join(IMPLEMENTATIONS)}')
    if name == "torch" or (name == "auto" and device.type != "cuda"):
        logger.info("deformable attention: PyTorch")
        return deformable_attention
    from cmpf.modeling import deformable_triton  # imports Triton, which CPU users do not need

    problem = deformable_triton.triton_problem(device)
    if problem is None:
        logger.info("deformable attention: Triton kernels")
        return deformable_triton.triton_deformable_attention
    logger.warning("deformable attention: PyTorch instead of Triton kernels, because %s", problem)
    return deformable_attention


def use_deformable_attention(network: nn.Module, function: AttentionFunction) -> None:
    """Makes every deformable attention inside a network compute with this function."""
    for module in network.modules():
        if isinstance(module, MultiScaleDeformableAttention):
            module.function = function


class MultiScaleDeformableAttention(nn.Module):
    """Each query reads a few learned places around its reference point on every level.

    Args:
        dim: width of queries and values.
        heads: a divisor of dim.
        points: places a head reads on one level.
        levels: feature levels.
        flat_levels: 0 = Deformable DETR's method. N > 0 (with levels = 1) = the arithmetic of the published
            weights: parameters for N levels, whose locations and weights, flat in (position, head, N, point),
            were read with the stride of one level. The output of flat (position, head) index s takes those at
            flat places points * s .. points * s + points - 1; all but the first 1 / N go unread.
    Raises:
        ConfigError: dim is not a multiple of heads, or flat_levels with more than one level.
    """

    def __init__(self, *, dim: int, heads: int, points: int, levels: int, flat_levels: int = 0) -> None:
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
        self.function: AttentionFunction = deformable_attention  # or another: use_deformable_attention
        places = heads * (flat_levels or levels) * points
        self.sampling_offsets = nn.Linear(dim, 2 * places)
        self.attention_weights = nn.Linear(dim, places)
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
            query_BQD: queries, positions added. With flat_levels, Q = S: one query a place of the map.
            references_BQ2: reference points (x, y) in 0..1; a batch of 1 serves all images.
            value_BSD: flattened levels, without positions.
            shapes: (h, w) of the levels.
            sizes_L2: the same as a float tensor of (w, h) on the device; offsets count in cells.
        Returns:
            (B, Q, D).
        """
        B, Q, _ = query_BQD.shape
        value = self.value_projection(value_BSD).view(B, value_BSD.shape[1], self.heads, -1)
        if self.flat_levels:  # what the later queries ask for is never read
            used = -(-Q // self.flat_levels)
            query_BQD, references_BQ2 = query_BQD[:, :used], references_BQ2[:, :used]
        levels = self.flat_levels or self.levels
        offsets = self.sampling_offsets(query_BQD).view(B, -1, self.heads, levels, self.points, 2)
        scores = self.attention_weights(query_BQD).view(B, -1, self.heads, levels * self.points)
        weights = scores.softmax(dim=-1).view(B, -1, self.heads, levels, self.points)
        locations = references_BQ2[:, :, None, None, None] + offsets / sizes_L2[:, None]
        if self.flat_levels:
            locations, weights = self._reread(locations, Q), self._reread(weights, Q)
        result: Tensor = self.output_projection(self.function(value, shapes, locations, weights))
        return result

    def _reread(self, x: Tensor, queries: int) -> Tensor:
        """(B, U, M, N, P, ...) for N levels, read flat as (B, Q, M, 1, P, ...) for one level."""
        groups = x.flatten(1, 3)[:, : queries * self.heads]
        return groups.reshape(x.shape[0], queries, self.heads, 1, *x.shape[4:])

    def _initialize(self) -> None:
        """Offsets start as a ring: one direction a head, one step farther each point. Weights start equal."""
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
