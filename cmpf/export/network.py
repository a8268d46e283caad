# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The part of CMPF that is exported: from one padded image and text embeddings to classified masks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cmpf.encoders.pair import SAM_PIXEL_MEAN, SAM_PIXEL_STD
from cmpf.model import CMPF
from cmpf.modeling.heads import class_logits
from cmpf.types import ClassEmbeddings, FrozenFeatures

INPUTS = ("image", "size", "text", "class_of_row", "seen")
OUTPUTS = ("mask_cls", "mask_pred")


class ExportNetwork(nn.Module):
    """CMPF with tensors in and tensors out (paper, Fig. 2, up to the class ensemble).

    Only what the network needs is a submodule, so that CLIP's text tower and SAM's mask decoder stay out of the file.

    Args:
        model: the model; its weights are shared, it is put into evaluation mode. How much CLIP's opinion counts
            (alpha, beta, objectness) is taken from its settings and becomes a constant.
    """

    pixel_mean: Tensor
    pixel_std: Tensor
    clip_scale: Tensor
    sam_mean: Tensor
    sam_std: Tensor

    def __init__(self, model: CMPF) -> None:
        super().__init__()
        self._model = (model.eval(),)  # in a tuple it is no submodule
        self.clip_image = model.encoders.clip.model.visual
        self.sam_image = model.encoders.sam.sam.image_encoder if model.encoders.sam is not None else None
        self.pixel_decoder = model.pixel_decoder
        self.sam_branch = model.sam_branch
        self.decoder = model.decoder
        self.void_embedding = model.void_embedding
        self.register_buffer("clip_scale", model.encoders.clip.logit_scale.clone())
        for name, values in (
            ("pixel_mean", model.encoders.pixel_mean),
            ("pixel_std", model.encoders.pixel_std),
            ("sam_mean", torch.tensor(SAM_PIXEL_MEAN, device=model.device)),
            ("sam_std", torch.tensor(SAM_PIXEL_STD, device=model.device)),
        ):
            self.register_buffer(name, values.clone()[:, None, None])

    def forward(
        self, image: Tensor, size: Tensor, text: Tensor, class_of_row: Tensor, seen: Tensor
    ) -> tuple[Tensor, Tensor]:
        """
        Args:
            image: (1, 3, H, W) float32, RGB 0..255, already resized, padded at the right and at the bottom with
                anything; H and W are multiples of the model's size divisibility.
            size: (2,) int64, height and width without padding.
            text: (T, E) float32, one L2-normalized row a synonym, rows of a class next to each other.
            class_of_row: (T,) int64, class index of each row, every class 0..K-1 present.
            seen: (K,) bool, classes that share a word with the training vocabulary.
        Returns:
            mask_cls (Q, K + 1), log class distribution with void last; mask_pred (Q, H/4, W/4) mask logits.
        """
        model = self._model[0]
        clip = model.encoders.clip
        classes = ClassEmbeddings(matrix=text, class_of_row=class_of_row, num_classes=seen.shape[0])
        features = FrozenFeatures(clip=clip(self._pixels(image, size)), sam=self._sam(image, size))
        outputs = model.decode(features, classes)
        embeddings, valid = clip.embed_masks(features.clip.dense, outputs["pred_masks"])
        settings = model.settings
        valid_only = settings.ensemble_on_valid_mask or not clip.embeds_empty_masks
        mask_cls = model.class_ensemble(
            outputs["pred_logits"].float(),
            class_logits(embeddings, classes, self.clip_scale).float(),
            seen,
            alpha=settings.alpha,
            beta=settings.beta,
            valid_BQ=valid if valid_only else None,
            objectness=settings.clip_objectness,
        )
        return mask_cls[0], outputs["pred_masks"][0]

    def _pixels(self, image: Tensor, size: Tensor) -> Tensor:
        return _inside(image, size) * ((image - self.pixel_mean) / self.pixel_std)

    def _sam(self, image: Tensor, size: Tensor) -> Tensor | None:
        model = self._model[0]
        if model.encoders.sam is None or not model.uses_sam:
            return None
        embedding: Tensor = model.encoders.sam(
            _inside(image, size) * ((image - self.sam_mean) / self.sam_std)
        )
        return embedding


def _inside(image: Tensor, size: Tensor) -> Tensor:
    """(H, W) float: 1 on the image, 0 on its padding."""
    rows = torch.arange(image.shape[-2], device=image.device) < size[0]
    columns = torch.arange(image.shape[-1], device=image.device) < size[1]
    return (rows[:, None] & columns).to(image.dtype)
