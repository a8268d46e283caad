# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The part of CMPF that is exported, from one padded image and text embeddings to classified masks, and its program."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F

from cmpf.encoders.pair import SAM_PIXEL_MEAN, SAM_PIXEL_STD
from cmpf.errors import ConfigError
from cmpf.model import CMPF
from cmpf.modeling.heads import class_logits
from cmpf.types import ClassEmbeddings, FrozenFeatures

INPUTS = ("image", "size", "text", "class_of_row", "seen")
OUTPUTS = ("mask_cls", "mask_pred")
STRIDE = 32  # of the coarsest map; image sizes are multiples of it
SMALLEST, LARGEST = 64, 8192  # sides in pixels; a map of one row would be another program
MOST_NAMES = 1_000_000  # synonyms, and classes


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
            text: (T, E) float32, one L2-normalized row per synonym, rows of a class next to each other.
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


def check_size(size: tuple[int, int]) -> None:
    """Raises ConfigError unless an image size (H, W) fits the network."""
    for side in size:
        if side % STRIDE or not SMALLEST <= side <= LARGEST:
            raise ConfigError(
                f"image size {size[0]} x {size[1]}: height and width must be multiples of {STRIDE}, "
                f"{SMALLEST} to {LARGEST}; {max(SMALLEST, -(-side // STRIDE) * STRIDE)} is near {side}"
            )


def example_inputs(
    network: ExportNetwork,
    size: tuple[int, int],
    *,
    synonyms: int,
    classes: int,
    padding: tuple[int, int] = (0, 0),
    seed: int = 0,
) -> dict[str, Tensor]:
    """Inputs of ExportNetwork by name: smooth noise as the image, random unit vectors as text.

    Args:
        network: decides the device and the width E.
        size: (H, W) with padding.
        synonyms, classes: T and K, T >= K.
        padding: rows and columns of `size` that are padding.
    """
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 9, 11, generator=generator) * 255
    text = torch.randn(synonyms, network.void_embedding.embedding_dim, generator=generator)
    extra = torch.randint(0, classes, (synonyms - classes,), generator=generator)
    inputs = {
        "image": F.interpolate(coarse, size=size, mode="bilinear", align_corners=False),
        "size": torch.tensor([size[0] - padding[0], size[1] - padding[1]]),
        "text": F.normalize(text, dim=-1),
        "class_of_row": torch.cat([torch.arange(classes), extra]).sort().values,
        "seen": torch.rand(classes, generator=generator) < 0.5,
    }
    return {name: value.to(network.pixel_mean.device) for name, value in inputs.items()}


def trace(network: ExportNetwork, *, size: tuple[int, int], dynamic: bool) -> ExportedProgram:
    """The network as a program.

    Args:
        size: (H, W) of the example, and with `dynamic` off of all images.
        dynamic: whether images may have other sizes. The numbers of classes and synonyms are always free.
    Raises:
        ConfigError: the size does not fit the network.
    """
    check_size(size)
    example = example_inputs(network, size, synonyms=7, classes=5)
    with torch.no_grad():
        # Tables that the encoders remember are made here: inside torch.export they would be made of symbols.
        network(**example)
        return torch.export.export(network, (), kwargs=example, dynamic_shapes=_shapes(dynamic), strict=False)


def _shapes(dynamic: bool) -> dict[str, Any]:
    """What may change: input -> axis -> symbol."""
    synonyms, classes = Dim("synonyms", min=1, max=MOST_NAMES), Dim("classes", min=1, max=MOST_NAMES)
    sides = {}
    if dynamic:
        height, width = (
            STRIDE * Dim(name, min=SMALLEST // STRIDE, max=LARGEST // STRIDE) for name in ("rows", "columns")
        )
        sides = {2: height, 3: width}
    return {
        "image": sides,
        "size": {},
        "text": {0: synonyms},
        "class_of_row": {0: synonyms},
        "seen": {0: classes},
    }
