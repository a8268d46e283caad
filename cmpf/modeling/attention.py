# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Multi-head attention on batch-first tensors, with the parameter names of torch.nn.MultiheadAttention."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmpf.errors import ConfigError


class MultiheadAttention(nn.Module):
    """Scaled dot-product attention of several heads (Vaswani et al.).

    Args:
        dim: width of queries, keys, values and result.
        heads: a divisor of dim.
    Raises:
        ConfigError: dim is not a multiple of heads.
    """

    def __init__(self, *, dim: int, heads: int) -> None:
        super().__init__()
        if dim % heads:
            raise ConfigError(
                f"attention of width {dim} with {heads} heads: the width must be a multiple of the heads"
            )
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self, query_BQD: Tensor, key_BLD: Tensor, value_BLD: Tensor, attend_BQL: Tensor | None = None
    ) -> Tensor:
        """
        Args:
            query_BQD, key_BLD, value_BLD: inputs; any may have a batch of 1 where the others have B.
            attend_BQL: bool, True where a query may read, at least once a query; None = everywhere.
        Returns:
            (B, Q, D).
        """
        weights = self.in_proj_weight.chunk(3)
        biases = self.in_proj_bias.chunk(3)
        query, key, value = (
            F.linear(x, weight, bias).view(*x.shape[:2], self.heads, -1).transpose(1, 2)
            for x, weight, bias in zip((query_BQD, key_BLD, value_BLD), weights, biases, strict=True)
        )
        mask = None if attend_BQL is None else attend_BQL[:, None]
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        result: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return result
