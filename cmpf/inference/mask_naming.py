# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Mask classification by CLIP: mask pooling and comparison with text embeddings (FC-CLIP, Mask-Adapter, MAFT+)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cmpf.common.tensors import without_autocast
from cmpf.encoders.clip import CLIP
from cmpf.modeling.heads import class_logits
from cmpf.types import ClassEmbeddings

if TYPE_CHECKING:
    from cmpf.modeling.mask_adapter import MaskAdapter
    from cmpf.modeling.text_transfer import TextTransfer


class MaskNaming(nn.Module):
    """Computes CLIP's class logits of masks.

    Args:
        mask_adapter: predicts the pooling weights on CLIP's feature map; None = mean inside the mask.
        text_transfer: adapts the text embeddings to each image; None = the text embeddings as they are.
        published_layout: memory layout, as in MAFT+, of the projected feature map that both of these read; see
            CLIP.project_map.
    """

    def __init__(
        self,
        *,
        mask_adapter: MaskAdapter | None = None,
        text_transfer: TextTransfer | None = None,
        published_layout: bool = False,
    ) -> None:
        super().__init__()
        self.mask_adapter = mask_adapter
        self.text_transfer = text_transfer
        self.published_layout = published_layout

    @property
    def reads_fine_masks(self) -> bool:
        """Whether masks are read at a finer resolution than that of CLIP's feature map."""
        return self.mask_adapter is not None

    def forward(
        self, clip: CLIP, dense_BChw: Tensor, masks_BQHW: Tensor, classes: ClassEmbeddings
    ) -> tuple[Tensor, Tensor]:
        """
        Args:
            clip: CLIP model that embeds the masks and owns the logit scale.
            dense_BChw: CLIP's dense feature map.
            masks_BQHW: mask logits of any size.
            classes: K classes, with or without void as the last one.
        Returns:
            (B, Q, K) float32 logits, and (B, Q) bool: whether the mask covers any cell.
        """
        projected = self.projected(clip, dense_BChw)
        if self.mask_adapter is None or projected is None:
            embeddings, valid = clip.embed_masks(dense_BChw, masks_BQHW)
        else:
            inside = self.mask_adapter.inside(masks_BQHW.float())
            embeddings = adapted_embeddings(self.mask_adapter, clip, dense_BChw, projected, inside)
            valid = inside.flatten(2).any(dim=-1)
        return self.logits(clip, embeddings, projected, classes), valid

    def projected(self, clip: CLIP, dense_BChw: Tensor) -> Tensor | None:
        """CLIP's feature map projected to the joint space, (B, E, h, w); None if no submodule reads it."""
        if self.mask_adapter is None and self.text_transfer is None:
            return None
        return clip.project_map(dense_BChw, published_layout=self.published_layout)

    def logits(
        self, clip: CLIP, embeddings_BQE: Tensor, projected_BEhw: Tensor | None, classes: ClassEmbeddings
    ) -> Tensor:
        """(B, Q, K) float32 logits of mask embeddings, with the text adapted to the image if text_transfer is set."""
        if self.text_transfer is None or projected_BEhw is None:
            return class_logits(embeddings_BQE, classes, clip.logit_scale).float()
        with without_autocast(projected_BEhw.device):
            texts_BTE = self.text_transfer(classes.matrix, projected_BEhw)
        logits = [
            class_logits(embeddings_QE[None], replace(classes, matrix=text_TE), clip.logit_scale)
            for embeddings_QE, text_TE in zip(embeddings_BQE, texts_BTE, strict=True)
        ]
        return torch.cat(logits).float()


def adapted_embeddings(
    adapter: MaskAdapter, clip: CLIP, dense_BChw: Tensor, projected_BEhw: Tensor, inside_BQHW: Tensor
) -> Tensor:
    """Embeddings (B, Q, E) of binary masks, averaged over the adapter's pooling maps after CLIP's projection."""
    from cmpf.modeling.mask_adapter import pooling_weights

    weights_BQMhw = pooling_weights(adapter(projected_BEhw, inside_BQHW))
    embeddings = clip.embed_maps(dense_BChw, weights_BQMhw.flatten(1, 2))
    return embeddings.reshape(*weights_BQMhw.shape[:3], -1).mean(dim=2)
