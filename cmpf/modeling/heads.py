# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Prediction head of the transformer decoder: mask logits and open-vocabulary class logits of the queries."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmpf.common.tensors import mask_pooling, resize_bilinear, sizes_agree, without_autocast
from cmpf.modeling.layers import MLP
from cmpf.types import ClassEmbeddings, HeadOutput

MAX_SCALE = 100.0


def class_logits(x_BQE: Tensor, embeddings: ClassEmbeddings, scale: Tensor | float) -> Tensor:
    """Scaled cosine similarity with each class, the maximum over its synonyms (paper Sec. 3.4).

    Args:
        x_BQE: embeddings in CLIP's joint space, not necessarily normalized.
        embeddings: K classes, T synonyms.
        scale: factor of the cosine.
    Returns:
        (B, Q, K) in the dtype of the text embeddings, even under autocast: with a scale of up to 100, half precision
        would cause errors of up to half a logit.
    """
    B, Q, _ = x_BQE.shape
    with without_autocast(x_BQE.device):
        x_QE = scale * F.normalize(x_BQE.to(embeddings.matrix.dtype), dim=-1).flatten(0, 1)
        if sizes_agree(embeddings.matrix.shape[:1], (embeddings.num_classes,)):
            return (x_QE @ embeddings.matrix.T).view(B, Q, -1)
        # Synonyms as the first dimension: the reduction over whole rows is fast compared with the product.
        synonym_logits = embeddings.matrix @ x_QE.T
        best = synonym_logits.new_full((embeddings.num_classes, B * Q), -torch.inf)
        rows = embeddings.class_of_row[:, None].expand_as(synonym_logits)
        best = best.scatter_reduce(0, rows, synonym_logits, reduce="amax")
    return best.T.reshape(B, Q, -1)


class MaskFeatures:
    """Computes mask logits at full size, and at reduced sizes for attention masks and the Query Injector.

    Bilinear resizing is linear, so that the product of a mask embedding and resized features equals the resized mask.
    Computing the reduced masks this way saves most of the heads' time.

    Args:
        features_BCHW: mask features at stride 4.
        prior_BPHW: logits added to the masks of the last P queries, at the size of the features; None = no prior.
        queries: Q; needed with a prior, because mask embeddings may be those of several heads, concatenated.
    """

    def __init__(self, features_BCHW: Tensor, *, prior_BPHW: Tensor | None = None, queries: int = 0) -> None:
        self.features_BCHW = features_BCHW
        self.prior_BPHW = prior_BPHW
        self._queries = queries
        self._resized: dict[tuple[int, int], tuple[Tensor, Tensor | None]] = {}

    def masks(self, embedding_BQC: Tensor) -> Tensor:
        """Mask logits (B, Q, H/4, W/4), with gradient."""
        return self._with_prior(_product(embedding_BQC, self.features_BCHW), self.prior_BPHW)

    @torch.no_grad()
    def masks_at(self, embedding_BQC: Tensor, size: tuple[int, int]) -> Tensor:
        """Mask logits (B, Q, *size), resized bilinearly, without gradient."""
        features, prior = self._resize(size)
        return self._with_prior(_product(embedding_BQC, features), prior)

    def _resize(self, size: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
        """Resized features and prior, cached, because every third layer needs the same size."""
        use_cache = not torch.compiler.is_exporting()  # where sizes may be symbolic, which are not hashable
        if use_cache and size in self._resized:
            return self._resized[size]
        prior = None if self.prior_BPHW is None else resize_bilinear(self.prior_BPHW, size)
        resized = resize_bilinear(self.features_BCHW, size), prior
        if use_cache:
            self._resized[size] = resized
        return resized

    def _with_prior(self, masks_BQhw: Tensor, prior_BPhw: Tensor | None) -> Tensor:
        """Adds the prior in place."""
        if prior_BPhw is None:
            return masks_BQhw
        per_head = masks_BQhw.view(len(masks_BQhw), -1, self._queries, *masks_BQhw.shape[-2:])
        per_head[:, :, -prior_BPhw.shape[1] :] += prior_BPhw[:, None]
        return masks_BQhw


class PredictionHead(nn.Module):
    """Predicts masks from the queries, and classes from the queries and the features inside the masks (FC-CLIP).

    Args:
        dim: width of the queries.
        mask_dim: width of the mask features.
        embed_dim: width E of CLIP's joint space.
    """

    def __init__(self, *, dim: int, mask_dim: int, embed_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.mask_mlp = MLP(dims=(dim, dim, dim, mask_dim))
        self.pool_projection = nn.Sequential(nn.LayerNorm(mask_dim), nn.Linear(mask_dim, dim))
        self.class_mlp = MLP(dims=(dim, dim, dim, embed_dim))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, queries_BQD: Tensor) -> tuple[Tensor, Tensor]:
        """Normalized queries (B, Q, D) and mask embeddings (B, Q, mask_dim)."""
        normalized = self.norm(queries_BQD)
        return normalized, self.mask_mlp(normalized)

    def predict(
        self,
        normalized_BQD: Tensor,
        mask_embedding_BQC: Tensor,
        mask_features: MaskFeatures,
        embeddings: ClassEmbeddings,
    ) -> HeadOutput:
        """
        Args:
            normalized_BQD, mask_embedding_BQC: output of `forward`.
            mask_features: mask features of the batch.
            embeddings: K classes and void as the last one.
        Returns:
            pred_logits (B, Q, K + 1) and pred_masks (B, Q, H/4, W/4).
        """
        masks = mask_features.masks(mask_embedding_BQC)
        pooled = self.pool_projection(mask_pooling(mask_features.features_BCHW, masks))
        scale = self.logit_scale.exp().clamp(max=MAX_SCALE)
        logits = class_logits(self.class_mlp(normalized_BQD + pooled), embeddings, scale)
        return {"pred_logits": logits, "pred_masks": masks}


def _product(embedding_BQC: Tensor, features_BChw: Tensor) -> Tensor:
    product = torch.bmm(embedding_BQC, features_BChw.flatten(2))
    return product.view(*product.shape[:2], *features_BChw.shape[-2:])
