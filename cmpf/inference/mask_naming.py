# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""How CLIP names masks: what it sees of each, and the text that it is compared with (FC-CLIP, Mask-Adapter, MAFT+)."""

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
    """CLIP's class logits of masks.

    Args:
        mask_adapter: says where CLIP's map is pooled; None = inside the mask.
        text_transfer: changes the text for each image; None = the text as it is.
        published_layout: CLIP's projected map, which both read, is made of its map in the order of its memory, as
            MAFT+ does; see CLIP.project_map.
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
    def reads_whole_masks(self) -> bool:
        """Whether masks are read at a finer size than that of CLIP's map."""
        return self.mask_adapter is not None

    def forward(
        self, clip: CLIP, dense_BChw: Tensor, masks_BQHW: Tensor, classes: ClassEmbeddings
    ) -> tuple[Tensor, Tensor]:
        """
        Args:
            clip: gives embeddings and their scale.
            dense_BChw: its dense map.
            masks_BQHW: mask logits of any size.
            classes: K classes, with void as the last one or without.
        Returns:
            (B, Q, K) float32 logits, and (B, Q) bool: CLIP could see the mask at all.
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
        """CLIP's map in its joint space (B, E, h, w), where a part reads it."""
        if self.mask_adapter is None and self.text_transfer is None:
            return None
        return clip.project_map(dense_BChw, published_layout=self.published_layout)

    def logits(
        self, clip: CLIP, embeddings_BQE: Tensor, projected_BEhw: Tensor | None, classes: ClassEmbeddings
    ) -> Tensor:
        """(B, Q, K) float32 logits of embeddings, by the text or by what the image makes of it."""
        if self.text_transfer is None or projected_BEhw is None:
            return class_logits(embeddings_BQE, classes, clip.logit_scale).float()
        with without_autocast(projected_BEhw.device):
            texts_BTE = self.text_transfer(classes.matrix, projected_BEhw)
        each = [
            class_logits(one[None], replace(classes, matrix=text_TE), clip.logit_scale)
            for one, text_TE in zip(embeddings_BQE, texts_BTE, strict=True)
        ]
        return torch.cat(each).float()


def adapted_embeddings(
    adapter: MaskAdapter, clip: CLIP, dense_BChw: Tensor, projected_BEhw: Tensor, inside_BQHW: Tensor
) -> Tensor:
    """Embeddings (B, Q, E) of masks of 0 and 1: the mean over the adapter's maps, taken after CLIP's projection."""
    from cmpf.modeling.mask_adapter import pooling_weights

    weights_BQMhw = pooling_weights(adapter(projected_BEhw, inside_BQHW))
    embeddings = clip.embed_maps(dense_BChw, weights_BQMhw.flatten(1, 2))
    return embeddings.reshape(*weights_BQMhw.shape[:3], -1).mean(dim=2)
