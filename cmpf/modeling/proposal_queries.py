# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Proposal queries: decoder queries initialized from SAM's masks (not in the paper)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cmpf.common.tensors import mask_pooling
from cmpf.modeling.layers import sine_position_encoding

# Proposal logits are clamped: larger values deep inside a mask carry no information on its outline.
LIMIT = 4.0


class ProposalQueries(nn.Module):
    """One query for each of SAM's mask proposals of an image, which the decoder refines and classifies.

    The content of a query is a projection of the mask features pooled inside its proposal, its position the mean sine
    position there. The proposal is the attention mask of the first layer, and its logits, times a learned scale, are
    added to the query's mask logits.

    Args:
        dim: width of the queries.
        mask_dim: width of the mask features.
        number: P, number of queries. If an image has fewer masks, the last queries have no proposal.
    """

    def __init__(self, *, dim: int, mask_dim: int, number: int) -> None:
        super().__init__()
        self.number = number
        self.projection = nn.Sequential(nn.LayerNorm(mask_dim), nn.Linear(mask_dim, dim))
        self.without_proposal = nn.Parameter(torch.zeros(dim))
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, mask_features_BChw: Tensor, proposals_BPhw: Tensor) -> tuple[Tensor, Tensor]:
        """
        Args:
            mask_features_BChw: mask features of the pixel decoder.
            proposals_BPhw: mask logits of the same size, zeros for missing proposals.
        Returns:
            Contents (B, P, D) and positions (B, P, D) of the queries.
        """
        has_proposal = (proposals_BPhw > 0).flatten(2).any(dim=-1, keepdim=True)
        content = self.projection(mask_pooling(mask_features_BChw, proposals_BPhw))
        content = torch.where(has_proposal, content, self.without_proposal)
        batch, (h, w) = len(proposals_BPhw), mask_features_BChw.shape[-2:]
        sine = sine_position_encoding(h, w, content.shape[-1], device=content.device, dtype=content.dtype)
        return content, mask_pooling(sine.expand(batch, -1, -1, -1), proposals_BPhw)

    def prior(self, proposals_BPhw: Tensor) -> Tensor:
        """Logits (B, P, h, w) that are added to the queries' mask logits."""
        return self.scale * proposals_BPhw.clamp(-LIMIT, LIMIT)
