# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What trains CLIP's names of masks: its trunk, the text's transfer (OVRCOAT, MAFT+) or pooling maps (Mask-Adapter)."""

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
    """Losses of CLIP's own names beside those of the decoder.

    Args:
        detached: the decoder's losses do not train CLIP.
        names: the criterion reads CLIP's names of the decoder's masks.
        mask_aware, representation: factors of the losses; 0 = off.
        teacher: makes the CLIP that training started from, with its original weights; called once.
    """

    detached: bool = False
    names: bool = False
    mask_aware: float = 0.0
    representation: float = 0.0
    teacher: Callable[[], CLIP] | None = None
    _teacher: CLIP | None = field(default=None, init=False, repr=False)

    @property
    def on(self) -> bool:
        """Whether it has losses of its own."""
        return self.mask_aware > 0 or self.representation > 0

    def for_decoder(self, features: FrozenFeatures) -> FrozenFeatures:
        """What the decoder reads."""
        return features.detached() if self.detached else features

    def add_names(
        self,
        outputs: DecoderOutput,
        naming: MaskNaming,
        clip: CLIP,
        features: FrozenFeatures,
        classes: ClassEmbeddings,
    ) -> None:
        """CLIP's logits of the decoder's masks, without void, where a loss reads them."""
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
            images: (B, 3, H, W), what `features` were made of.
            targets: masks at the padded input's size.
        """
        found = {}
        original = self._original(images.device)(images).dense if self.representation else None
        # As in SetCriterion: overlaps are sums over a million pixels.
        with torch.autocast(images.device.type, enabled=False):
            if self.mask_aware:
                loss = mask_aware_loss(outputs["clip_logits"], outputs["pred_masks"].detach(), targets)
                found["loss_mask_aware"] = self.mask_aware * loss / normalizers.targets
            if original is not None:
                loss = representation_loss(features.clip.dense, original)
                found["loss_representation"] = self.representation * loss / normalizers.images
        return found

    def _original(self, device: torch.device) -> CLIP:
        """Made at the first loss, since results never need it."""
        if self._teacher is None:
            if self.teacher is None:
                raise TrainingError(
                    "the representation loss needs the CLIP that training started from: give a teacher"
                )
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
        classes: with void as the last one.
        targets: masks at the padded input's size.
        predicted_masks: (B, Q, h, w) logits of the decoder, in stage 2; None in stage 1.
        normalizers: of the whole batch, where this is a part of it; None = of this batch.
    Raises:
        TrainingError: the model has no Mask-Adapter.
    """
    masks = None if predicted_masks is None else predicted_masks.float()
    with torch.autocast(features.clip.dense.device.type, enabled=False):
        examples = criterion.examples(targets, masks)
    projected = naming.projected(clip, features.clip.dense)
    if naming.mask_adapter is None or projected is None:
        raise TrainingError("the losses of Mask-Adapter need one: set MODEL.CMPF.MASK_EMBEDDING mask_adapter")
    embeddings = adapted_embeddings(
        naming.mask_adapter, clip, features.clip.dense, projected, examples.inside
    )
    logits = naming.logits(clip, embeddings, projected, classes)
    if normalizers is None:
        normalizers = criterion.normalizers(targets, queries=1, device=logits.device)
    with torch.autocast(logits.device.type, enabled=False):
        losses: dict[str, Tensor] = criterion(logits, embeddings.float(), examples, normalizers)
    return losses
