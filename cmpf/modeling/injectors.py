# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The injectors: how SAM's evidence enters CLIP's queries and tokens."""

from __future__ import annotations

from torch import Tensor, nn

from cmpf.common.tensors import mask_pooling
from cmpf.modeling.layers import AttentionLayer, conv_xavier


class QueryInjector(nn.Module):
    """Adds SAM's local evidence to the queries (paper: Query Injector, Eq. 1).

    For each query the raw SAM embedding is averaged inside the query's own predicted mask, projected,
    and added to the query that enters the next decoder layer.

    Args:
        projection: what the class head applies to its pooled features; the same object, trained with it.
        in_channels: channels S of SAM's embedding.
        dim: width that the projection reads; a 1x1 convolution brings SAM's embedding to it where S differs.
    """

    def __init__(self, *, projection: nn.Module, in_channels: int, dim: int) -> None:
        super().__init__()
        self.input_projection = nn.Identity() if in_channels == dim else conv_xavier(in_channels, dim)
        # In a tuple it is no submodule: the class head owns these weights, and a state dict names them once.
        self._projection = (projection,)

    def forward(self, queries_BQD: Tensor, masks_BQHW: Tensor, sam_BShw: Tensor) -> Tensor:
        """
        Args:
            queries_BQD: queries after a decoder layer.
            masks_BQHW: that layer's mask logits, any size; resized to SAM's map. Only their sign is used.
            sam_BShw: SAM's image embedding.
        Returns:
            Queries of the same shape. A query whose mask is empty changes by the projection of zeros.
        """
        pooled = mask_pooling(self.input_projection(sam_BShw), masks_BQHW)
        projected: Tensor = self._projection[0](pooled)
        return queries_BQD + projected


class FeatureInjector(nn.Module):
    """CLIP's tokens of one level, by default of stride 32, read SAM's features (paper: Feature Injector).

    Args:
        dim: width of the tokens. heads: of the attention.
        in_channels: channels of SAM's features; a 1x1 convolution brings them to dim where they differ.
        keep_positions: whether the injected keys carry sine positions. In the published system they do not.
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
            clip_BLD: CLIP's tokens of the level, level embedding added.
            positions_1LD: their sine positions.
            sam_BChw: SAM's features at the size of that level's map, h * w = L.
            level_embedding_D: the embedding of that level.
        Returns:
            Keys and values (B, L, D) for the queries' masked cross-attention.
        """
        sam_BLD = self.input_projection(sam_BChw).flatten(2).transpose(1, 2) + level_embedding_D
        values = self.attention(
            clip_BLD, positions_BQD=positions_1LD, keys_BLD=sam_BLD + positions_1LD, values_BLD=sam_BLD
        )
        return (values + positions_1LD if self.keep_positions else values), values
