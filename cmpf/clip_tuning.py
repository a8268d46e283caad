# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Losses that fine-tune CLIP's mask classification: OVRCOAT, MAFT+ and Mask-Adapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cmpf.encoders.clip import CLIP
from cmpf.errors import TrainingError
from cmpf.inference.mask_naming import MaskNaming, adapted_embeddings
from cmpf.losses.clip_names import AdapterCriterion, mask_aware_loss, representation_loss
from cmpf.losses.criterion import Normalizers
from cmpf.types import ClassEmbeddings, DecoderOutput, FrozenFeatures, Targets


@dataclass(kw_only=True)
class ClipTuning:
    """Losses of CLIP's mask classification in addition to those of the decoder.

    Args:
        detached: whether the decoder's losses send no gradient to CLIP.
        names: whether the criterion needs CLIP's class logits of the decoder's masks.
        mask_aware, representation: weights of the losses; 0 = off.
        teacher: builds the CLIP with its original weights for the representation loss; called once.
    """

    detached: bool = False
    names: bool = False
    mask_aware: float = 0.0
    representation: float = 0.0
    teacher: Callable[[], CLIP] | None = None
    _teacher: CLIP | None = field(default=None, init=False, repr=False)

    @property
    def has_losses(self) -> bool:
        """Whether `losses` returns any."""
        return self.mask_aware > 0 or self.representation > 0

    def decoder_features(self, features: FrozenFeatures) -> FrozenFeatures:
        """The features that the decoder reads, detached if its losses must not train CLIP."""
        return features.detached() if self.detached else features

    def add_clip_logits(
        self,
        outputs: DecoderOutput,
        naming: MaskNaming,
        clip: CLIP,
        features: FrozenFeatures,
        classes: ClassEmbeddings,
    ) -> None:
        """Adds CLIP's class logits of the decoder's masks, without void, to `outputs` if a loss needs them."""
        if self.names or self.mask_aware:
            outputs["clip_logits"], _ = naming(clip, features.clip.dense, outputs["pred_masks"], classes)

    def losses(
        self,
        outputs: DecoderOutput,
        features: FrozenFeatures,
        images: Tensor,
        targets: Sequence[Targets],
        normalizers: Normalizers,
    ) -> dict[str, Tensor]:
        """Weighted losses by name.

        Args:
            images: (B, 3, H, W) input of CLIP.
            targets: one per image, masks at the padded input's size.
        """
        losses = {}
        teacher_map = self._get_teacher(images.device)(images).dense if self.representation else None
        # In float32, as in SetCriterion: overlaps are sums over a million pixels.
        with torch.autocast(images.device.type, enabled=False):
            if self.mask_aware:
                loss = mask_aware_loss(outputs["clip_logits"], outputs["pred_masks"].detach(), targets)
                losses["loss_mask_aware"] = self.mask_aware * loss / normalizers.targets
            if teacher_map is not None:
                loss = representation_loss(features.clip.dense, teacher_map)
                losses["loss_representation"] = self.representation * loss / normalizers.images
        return losses

    def _get_teacher(self, device: torch.device) -> CLIP:
        """Builds the teacher at the first call; inference never needs it."""
        if self._teacher is None:
            if self.teacher is None:
                raise TrainingError(
                    "the representation loss needs the CLIP that training started from: give a teacher"
                )
            # A resumed training builds it at another step and must draw the same random points.
            with torch.random.fork_rng(devices=[]):
                self._teacher = self.teacher().to(device)
        return self._teacher


def adapter_losses(
    criterion: AdapterCriterion,
    naming: MaskNaming,
    clip: CLIP,
    features: FrozenFeatures,
    classes: ClassEmbeddings,
    targets: Sequence[Targets],
    *,
    predicted_masks: Tensor | None,
    normalizers: Normalizers | None,
) -> dict[str, Tensor]:
    """Losses of Mask-Adapter.

    Args:
        classes: K classes, void as the last one.
        targets: one per image, masks at the padded input's size.
        predicted_masks: (B, Q, h, w) mask logits of the decoder in stage 2; None in stage 1.
        normalizers: normalizers of the full batch if this is a part of it; None = those of this batch.
    Raises:
        TrainingError: the model has no Mask-Adapter.
    """
    masks = None if predicted_masks is None else predicted_masks.float()
    with torch.autocast(features.clip.dense.device.type, enabled=False):
        examples = criterion.examples(targets, masks)
    projected = naming.projected(clip, features.clip.dense)
    if naming.mask_adapter is None or projected is None:
        raise TrainingError("the losses of Mask-Adapter need one: set MODEL.CMPF.MASK_EMBEDDING mask_adapter")
    embeddings = adapted_embeddings(naming.mask_adapter, clip, features.clip.dense, projected, examples.masks)
    logits = naming.logits(clip, embeddings, projected, classes)
    if normalizers is None:
        normalizers = criterion.normalizers(targets, queries=1, device=logits.device)
    with torch.autocast(logits.device.type, enabled=False):
        losses: dict[str, Tensor] = criterion(logits, embeddings.float(), examples, normalizers)
    return losses
