# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Query Injector and Feature Injector: they add SAM's features to the decoder's queries and tokens."""

from __future__ import annotations

from torch import Tensor, nn

from cmpf.common.tensors import mask_pooling
from cmpf.modeling.layers import AttentionLayer, conv_xavier


class QueryInjector(nn.Module):
    """Adds SAM's local features to the queries (paper: Query Injector, Eq. 1).

    For each query, SAM's embedding is averaged inside the query's predicted mask, projected, and added to the query
    that enters the next decoder layer.

    Args:
        projection: projection of the class head's pooled features, shared with the class head.
        in_channels: channels S of SAM's embedding.
        dim: input width of the projection; if it differs from S, a 1x1 convolution projects SAM's embedding.
    """

    def __init__(self, *, projection: nn.Module, in_channels: int, dim: int) -> None:
        super().__init__()
        self.input_projection = nn.Identity() if in_channels == dim else conv_xavier(in_channels, dim)
        # The tuple keeps it from being registered as a submodule: the class head owns it in the state dict.
        self._projection = (projection,)

    def forward(self, queries_BQD: Tensor, masks_BQHW: Tensor, sam_BShw: Tensor) -> Tensor:
        """
        Args:
            queries_BQD: queries after a decoder layer.
            masks_BQHW: that layer's mask logits of any size, resized to SAM's embedding. Only their sign is used.
            sam_BShw: SAM's image embedding.
        Returns:
            Queries of the same shape. For an empty mask the projection of zeros is added.
        """
        pooled = mask_pooling(self.input_projection(sam_BShw), masks_BQHW)
        projected: Tensor = self._projection[0](pooled)
        return queries_BQD + projected


class FeatureInjector(nn.Module):
    """Cross-attention from CLIP's tokens of one level (default: stride 32) to SAM's features (paper: Feature Injector).

    Args:
        dim: width of the tokens.
        heads: number of attention heads.
        in_channels: channels of SAM's features; if they differ from dim, a 1x1 convolution projects them.
        keep_positions: whether the returned keys include sine positions; not so in the published system.
    """

    def __init__(self, *, dim: int, heads: int, in_channels: int, keep_positions: bool) -> None:
        super().__init__()
        self.input_projection = nn.Identity() if in_channels == dim else conv_xavier(in_channels, dim)
        self.attention = AttentionLayer(dim=dim, heads=heads)
        self.keep_positions = keep_positions

    def forward(
        self, clip_BLD: Tensor, positions_1LD: Tensor, sam_BChw: Tensor, level_embedding_D: Tensor
    ) -> tuple[Tensor, Tensor]:
        """
        Args:
            clip_BLD: CLIP's tokens of the level, including its level embedding.
            positions_1LD: sine positions of the tokens.
            sam_BChw: SAM's features resized to the level, h * w = L.
            level_embedding_D: embedding of the level.
        Returns:
            Keys and values (B, L, D) for the queries' masked cross-attention.
        """
        sam_BLD = self.input_projection(sam_BChw).flatten(2).transpose(1, 2) + level_embedding_D
        values = self.attention(
            clip_BLD, positions_BQD=positions_1LD, keys_BLD=sam_BLD + positions_1LD, values_BLD=sam_BLD
        )
        return (values + positions_1LD if self.keep_positions else values), values
