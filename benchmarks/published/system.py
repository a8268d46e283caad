# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The whole model as published, with the weights of one of CMPF's models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.published.network import class_logits, decode, plain_linear, with_published_attention
from benchmarks.published.postprocess import Sizes, instances, panoptic, restore, semantic
from benchmarks.published.training import Draw, draw_uniform, losses
from cmpf.inference import geometric_ensemble
from cmpf.model import CMPF
from cmpf.types import ClassEmbeddings, DecoderOutput, FrozenFeatures, Sample


class PublishedModel(nn.Module):
    """A copy of a model with the parts of this package; the frozen encoders run one after another."""

    def __init__(self, model: CMPF) -> None:
        super().__init__()
        clip = model.encoders.clip
        self.encoders = with_published_attention(model.encoders, shared=[clip])
        trained = nn.ModuleList([model.pixel_decoder, model.decoder, model.void_embedding])
        copied: Any = with_published_attention(trained)
        self.pixel_decoder, self.decoder, self.void_embedding = copied
        self.sam_branch = None if model.sam_branch is None else with_published_attention(model.sam_branch)
        self.criterion, self.settings = model.criterion, model.settings

    @plain_linear()
    @torch.no_grad()
    def infer(self, batch: Sequence[Sample], classes: ClassEmbeddings, is_thing: Tensor, seen: Tensor) -> Any:
        """Labels, panoptic ids and instance scores of the first image."""
        settings = self.settings
        features, padded, unpadded = self.encoders(batch, with_sam=self.decoder.uses_sam)
        outputs = self._decode(features, classes)
        embeddings, _ = self.encoders.clip.embed_masks(features.clip.dense, outputs["pred_masks"])
        mask_cls = geometric_ensemble(
            outputs["pred_logits"],
            class_logits(embeddings, classes, self.encoders.clip.logit_scale),
            seen,
            alpha=settings.alpha,
            beta=settings.beta,
            valid_BQ=None,
            objectness=0.0,
        )[0]
        output = (batch[0].get("height", unpadded[0][0]), batch[0].get("width", unpadded[0][1]))
        masks = restore(outputs["pred_masks"][0], Sizes(padded, unpadded[0], output))
        segments = panoptic(
            mask_cls,
            masks,
            is_thing=is_thing,
            object_mask_threshold=settings.object_mask_threshold,
            overlap_threshold=settings.overlap_threshold,
        )
        scores, _, _ = instances(mask_cls, masks, topk=settings.detections_per_image, is_thing=is_thing)
        return {"sem_seg": semantic(mask_cls, masks), "panoptic": segments[0], "scores": scores}

    @plain_linear()
    def losses(
        self, batch: Sequence[Sample], classes: ClassEmbeddings, *, draw: Draw = draw_uniform
    ) -> dict[str, Tensor]:
        """The same as CMPF.losses, for images that need no padding."""
        features, _, _ = self.encoders(batch, with_sam=self.decoder.uses_sam)
        outputs = self._decode(features, classes)
        if self.criterion is None:
            raise ValueError("the model was built without losses")
        return losses(self.criterion, outputs, [sample["targets"] for sample in batch], draw=draw)

    def _decode(self, features: FrozenFeatures, classes: ClassEmbeddings) -> DecoderOutput:
        pixels = self.pixel_decoder(features.clip.levels)
        sam_features = None
        if self.sam_branch is not None and features.sam is not None:
            sam_features = self.sam_branch(features.sam)
        void = F.normalize(self.void_embedding.weight, dim=-1)
        return decode(
            self.decoder,
            pixels.multi_scale,
            pixels.mask_features,
            classes.with_void(void),
            sam_embedding=features.sam,
            sam_features=sam_features,
        )
