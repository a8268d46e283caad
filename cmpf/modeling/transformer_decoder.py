# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Masked-attention transformer decoder with Query Injector, Feature Injector and proposal queries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cmpf.common.tensors import resize_bilinear
from cmpf.errors import ConfigError
from cmpf.modeling.heads import MaskFeatures, PredictionHead
from cmpf.modeling.layers import AttentionLayer, FeedForwardLayer, conv_xavier, sine_position_encoding
from cmpf.modeling.proposal_queries import ProposalQueries
from cmpf.types import ClassEmbeddings, DecoderOutput, HeadOutput

LEVELS = 3  # strides 32, 16, 8; layer i reads level i mod 3


class DecoderLayer(nn.Module):
    """Masked cross-attention, self-attention, feed-forward; post-norm (Mask2Former)."""

    def __init__(self, *, dim: int, heads: int, dim_feedforward: int) -> None:
        super().__init__()
        self.cross_attention = AttentionLayer(dim=dim, heads=heads)
        self.self_attention = AttentionLayer(dim=dim, heads=heads)
        self.feed_forward = FeedForwardLayer(dim=dim, hidden_dim=dim_feedforward)

    def forward(
        self,
        queries_BQD: Tensor,
        positions_1QD: Tensor,
        keys_BLD: Tensor,
        values_BLD: Tensor,
        attend_BQL: Tensor,
    ) -> Tensor:
        """
        Args:
            queries_BQD: query contents.
            positions_1QD: query positions.
            keys_BLD, values_BLD: tokens of one level.
            attend_BQL: bool, True where a query may attend.
        Returns:
            (B, Q, D).
        """
        x = self.cross_attention(
            queries_BQD,
            positions_BQD=positions_1QD,
            keys_BLD=keys_BLD,
            values_BLD=values_BLD,
            attend_BQL=attend_BQL,
        )
        x = self.self_attention(x, positions_BQD=positions_1QD, keys_BLD=x + positions_1QD, values_BLD=x)
        result: Tensor = self.feed_forward(x)
        return result


@dataclass(frozen=True)
class Level:
    """A flattened feature map: tokens (B, L, D) with level embedding, sine positions (1, L, D), size (h, w)."""

    tokens: Tensor
    positions: Tensor
    size: tuple[int, int]


class TransformerDecoder(nn.Module):
    """Decodes queries into masks and classes with masked attention (paper Sec. 3).

    Args:
        in_channels: channels of the multi-scale maps; if they differ from dim, 1x1 convolutions project them.
        dim: width of the queries. mask_dim: width of the mask features. embed_dim: width E of CLIP's joint space.
        queries: Q, number of learned queries.
        heads, layers, dim_feedforward: settings of the decoder layers.
        sam_channels: channels of SAM's embedding, for the Query Injector.
        sam_feature_channels: channels of the SAM branch's features, for the Feature Injector.
        query_injector, feature_injector: factories of the injectors, by default the classes QueryInjector and
            FeatureInjector; None = off. Without both this is FC-CLIP's decoder.
        keep_positions: see FeatureInjector.
        query_injector_level: the Query Injector runs after each layer but the last that reads this level, 0..2.
        feature_injector_level: level, 0..2, whose tokens the Feature Injector modifies.
        num_proposals: P, number of proposal queries in addition to the learned ones; 0 = off.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        dim: int,
        mask_dim: int,
        embed_dim: int,
        queries: int,
        heads: int,
        layers: int,
        dim_feedforward: int,
        sam_channels: int,
        sam_feature_channels: int,
        query_injector: Callable[..., nn.Module] | None,
        feature_injector: Callable[..., nn.Module] | None,
        keep_positions: bool,
        query_injector_level: int = 2,
        feature_injector_level: int = 0,
        num_proposals: int = 0,
    ) -> None:
        super().__init__()
        self.query_injector_level = query_injector_level
        self.feature_injector_level = feature_injector_level
        self.input_projections = nn.ModuleList(
            nn.Identity() if in_channels == dim else conv_xavier(in_channels, dim) for _ in range(LEVELS)
        )
        self.level_embedding = nn.Embedding(LEVELS, dim)
        self.query_content = nn.Embedding(queries, dim)
        self.query_position = nn.Embedding(queries, dim)
        self.layers = nn.ModuleList(
            DecoderLayer(dim=dim, heads=heads, dim_feedforward=dim_feedforward) for _ in range(layers)
        )
        self.head = PredictionHead(dim=dim, mask_dim=mask_dim, embed_dim=embed_dim)
        self.query_injector: nn.Module | None = None
        if query_injector is not None:
            self.query_injector = query_injector(
                projection=self.head.pool_projection, in_channels=sam_channels, dim=mask_dim
            )
        self.proposal_queries = (
            ProposalQueries(dim=dim, mask_dim=mask_dim, number=num_proposals) if num_proposals else None
        )
        self.feature_injectors = nn.ModuleDict()
        if feature_injector is not None:
            for index in range(feature_injector_level, layers, LEVELS):
                self.feature_injectors[str(index)] = feature_injector(
                    dim=dim, heads=heads, in_channels=sam_feature_channels, keep_positions=keep_positions
                )

    @property
    def num_queries(self) -> int:
        """Number of learned and proposal queries, Q + P."""
        num_proposals = 0 if self.proposal_queries is None else self.proposal_queries.number
        return self.query_content.num_embeddings + num_proposals

    @property
    def uses_sam(self) -> bool:
        """Whether an injector or the proposal queries need SAM's embedding."""
        has_injector = self.query_injector is not None or len(self.feature_injectors) > 0
        return has_injector or self.proposal_queries is not None

    def forward(
        self,
        multi_scale: Sequence[Tensor],
        mask_features: Tensor,
        embeddings: ClassEmbeddings,
        *,
        sam_embedding: Tensor | None = None,
        sam_features: Tensor | None = None,
        proposals: Tensor | None = None,
        aux: bool = False,
    ) -> DecoderOutput:
        """
        Args:
            multi_scale: three maps (B, C, h, w) at strides 32, 16, 8.
            mask_features: (B, mask_dim, H/4, W/4).
            embeddings: K classes and void as the last one.
            sam_embedding: (B, S, hs, ws), SAM's embedding, for the Query Injector.
            sam_features: (B, C, h, w) features of the SAM branch of any size, for the Feature Injector.
            proposals: (B, P, H/4, W/4) logits of SAM's masks for the proposal queries, zeros for missing masks.
            aux: whether the earlier heads predict in eval mode, too; in training mode they always do.
        Returns:
            Predictions of the last head; aux_outputs: those of the head before each layer, or empty.
        Raises:
            ConfigError: an injector or the proposal queries are on and their input is None.
        """
        self._check_sam_inputs(sam_embedding, sam_features, proposals)
        levels = [self._make_level(index, x) for index, x in enumerate(multi_scale)]
        if sam_features is not None:
            sam_features = resize_bilinear(sam_features, levels[self.feature_injector_level].size)
        queries, positions, masks = self._initial_queries(mask_features, proposals)
        heads: list[tuple[Tensor, Tensor]] = []
        for index, layer in enumerate(self.layers):
            normalized, mask_embedding = self.head(queries)
            if self.training or aux:
                heads.append((normalized, mask_embedding))
            if index and (index - 1) % LEVELS == self.query_injector_level:
                queries = self._inject(queries, mask_embedding, masks, sam_embedding)
            level = levels[index % LEVELS]
            keys, values = self._keys_and_values(index, levels, sam_features)
            mask_logits = masks.masks_at(mask_embedding, level.size)
            if index == 0 and proposals is not None:
                mask_logits[:, -proposals.shape[1] :] = resize_bilinear(proposals, level.size)
            queries = layer(queries, positions, keys, values, attention_mask(mask_logits))
        heads.append(self.head(queries))
        *aux_outputs, final = self._predict(heads, masks, embeddings)
        return {
            "pred_logits": final["pred_logits"],
            "pred_masks": final["pred_masks"],
            "aux_outputs": aux_outputs,
        }

    def _initial_queries(
        self, mask_features: Tensor, proposals: Tensor | None
    ) -> tuple[Tensor, Tensor, MaskFeatures]:
        """Contents (B, Q + P, D) and positions (1 or B, Q + P, D) of the queries, and the batch's mask features."""
        content = self.query_content.weight[None].expand(mask_features.shape[0], -1, -1)
        positions = self.query_position.weight[None]
        if self.proposal_queries is None or proposals is None:
            return content, positions, MaskFeatures(mask_features)
        proposal_content, proposal_positions = self.proposal_queries(mask_features, proposals)
        content = torch.cat([content, proposal_content], dim=1)
        positions = torch.cat([positions.expand(len(content), -1, -1), proposal_positions], dim=1)
        prior = self.proposal_queries.prior(proposals)
        masks = MaskFeatures(mask_features, prior_BPHW=prior, queries=content.shape[1])
        return content, positions, masks

    def _predict(
        self, heads: Sequence[tuple[Tensor, Tensor]], masks: MaskFeatures, embeddings: ClassEmbeddings
    ) -> list[HeadOutput]:
        """Predictions of several heads, computed at once for their concatenated queries."""
        normalized = torch.cat([head[0] for head in heads], dim=1)
        mask_embedding = torch.cat([head[1] for head in heads], dim=1)
        output = self.head.predict(normalized, mask_embedding, masks, embeddings)
        pred_logits = output["pred_logits"].chunk(len(heads), dim=1)
        pred_masks = output["pred_masks"].chunk(len(heads), dim=1)
        return [{"pred_logits": a, "pred_masks": b} for a, b in zip(pred_logits, pred_masks, strict=True)]

    def _make_level(self, index: int, x_BChw: Tensor) -> Level:
        h, w = x_BChw.shape[-2], x_BChw.shape[-1]
        projected = self.input_projections[index](x_BChw).flatten(2).transpose(1, 2)
        positions = sine_position_encoding(
            h, w, projected.shape[-1], device=projected.device, dtype=projected.dtype
        )
        return Level(
            tokens=projected + self.level_embedding.weight[index],
            positions=positions.flatten(2).transpose(1, 2),
            size=(h, w),
        )

    def _keys_and_values(
        self, index: int, levels: Sequence[Level], sam_features: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Keys and values (B, L, D) of layer `index`."""
        level = levels[index % LEVELS]
        if sam_features is None or str(index) not in self.feature_injectors:
            return level.tokens + level.positions, level.tokens
        injector = self.feature_injectors[str(index)]
        injected: tuple[Tensor, Tensor] = injector(
            level.tokens,
            level.positions,
            sam_features,
            self.level_embedding.weight[self.feature_injector_level],
        )
        return injected

    def _inject(
        self,
        queries_BQD: Tensor,
        mask_embedding_BQC: Tensor,
        masks: MaskFeatures,
        sam_embedding: Tensor | None,
    ) -> Tensor:
        if self.query_injector is None or sam_embedding is None:
            return queries_BQD
        size = (sam_embedding.shape[-2], sam_embedding.shape[-1])
        injected: Tensor = self.query_injector(
            queries_BQD, masks.masks_at(mask_embedding_BQC, size), sam_embedding
        )
        return injected

    def _check_sam_inputs(
        self, sam_embedding: Tensor | None, sam_features: Tensor | None, proposals: Tensor | None
    ) -> None:
        if self.proposal_queries is not None and proposals is None:
            raise ConfigError(
                "queries start at SAM's masks (MODEL.CMPF.PROPOSAL_QUERIES) but proposals is None: pass them or switch "
                "it off"
            )
        if self.query_injector is not None and sam_embedding is None:
            raise ConfigError(
                "the Query Injector is on but sam_embedding is None: pass SAM's embedding or switch it off"
            )
        if len(self.feature_injectors) and sam_features is None:
            raise ConfigError(
                "the Feature Injector is on but sam_features is None: pass them or switch it off"
            )


def attention_mask(mask_logits_BQhw: Tensor) -> Tensor:
    """Where each query may attend: inside its mask (probability >= 0.5), or everywhere if its mask is empty.

    Args:
        mask_logits_BQhw: mask logits at the level's size.
    Returns:
        (B, Q, h * w) bool.
    """
    inside = mask_logits_BQhw.flatten(2) >= 0
    return inside | ~inside.any(dim=-1, keepdim=True)
