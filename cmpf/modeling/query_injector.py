# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Query Injector: SAM's evidence inside a query's mask enters the query."""

from __future__ import annotations

from torch import Tensor, nn

from cmpf.common.tensors import mask_pooling
from cmpf.modeling.layers import conv_xavier


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
