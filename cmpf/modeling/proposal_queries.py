# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Queries that start at SAM's masks, beside the learned ones (CMPF's own; not in the paper)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cmpf.common.tensors import mask_pooling
from cmpf.modeling.layers import sine_position_encoding

LIMIT = 4.0  # of a proposal's logits: SAM's certainty far inside a mask says nothing about its outline


class ProposalQueries(nn.Module):
    """A query for each of SAM's masks of an image, its proposal; the decoder refines and names it.

    Its content is made of the mask features inside the proposal, its position is the mean of the sine positions
    there. The proposal is where it looks first, and is added to the logits of its masks, times a learned scale, so that
    an outline need not be learned again.

    Args:
        dim: width of the queries. mask_dim: width of the mask features.
        number: of queries, P. Images with fewer masks leave the last ones without a proposal.
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
            mask_features_BChw: of the pixel decoder.
            proposals_BPhw: logits at the same size; zeros where there is no proposal.
        Returns:
            Contents (B, P, D) and positions (B, P, D) of the queries.
        """
        there = (proposals_BPhw > 0).flatten(2).any(dim=-1, keepdim=True)
        content = self.projection(mask_pooling(mask_features_BChw, proposals_BPhw))
        content = torch.where(there, content, self.without_proposal)
        batch, (h, w) = len(proposals_BPhw), mask_features_BChw.shape[-2:]
        sine = sine_position_encoding(h, w, content.shape[-1], device=content.device, dtype=content.dtype)
        return content, mask_pooling(sine.expand(batch, -1, -1, -1), proposals_BPhw)

    def prior(self, proposals_BPhw: Tensor) -> Tensor:
        """What is added to the queries' mask logits, (B, P, h, w)."""
        return self.scale * proposals_BPhw.clamp(-LIMIT, LIMIT)
