# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The exported part of CMPF, from a padded image and text embeddings to classified masks, and its tracing."""

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
STRIDE = 32  # of the coarsest feature map; image sizes are multiples of it
SMALLEST, LARGEST = 64, 8192  # sides in pixels; torch.export would specialize a feature map with a single row
MAX_NAMES = 1_000_000  # maximum number of synonyms and of classes


class ExportNetwork(nn.Module):
    """CMPF with tensors as inputs and outputs (paper, Fig. 2, up to the class ensemble).

    Only the required parts are submodules, so that CLIP's text tower and SAM's mask decoder are not exported.

    Args:
        model: the model, which is set to evaluation mode; weights are shared. The weights of CLIP's scores in its
            settings (alpha, beta, objectness) become constants.
    """

    pixel_mean: Tensor
    pixel_std: Tensor
    clip_scale: Tensor
    sam_mean: Tensor
    sam_std: Tensor

    def __init__(self, model: CMPF) -> None:
        super().__init__()
        self._model = (model.eval(),)  # the tuple keeps nn.Module from registering it
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
            image: (1, 3, H, W) float32, RGB in 0..255, resized, with arbitrary padding at the right and bottom; H and W
                are multiples of the model's size divisibility.
            size: (2,) int64, height and width without padding.
            text: (T, E) float32, one L2-normalized row per synonym, rows of a class next to each other.
            class_of_row: (T,) int64, class index of each row, every class 0..K-1 present.
            seen: (K,) bool, classes that share a word with the training vocabulary.
        Returns:
            mask_cls (Q, K + 1) log class probabilities with void last, and mask_pred (Q, H/4, W/4) mask logits.
        """
        model = self._model[0]
        clip = model.encoders.clip
        classes = ClassEmbeddings(matrix=text, class_of_row=class_of_row, num_classes=seen.shape[0])
        features = FrozenFeatures(clip=clip(self._normalize(image, size)), sam=self._sam(image, size))
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

    def _normalize(self, image: Tensor, size: Tensor) -> Tensor:
        return _valid_mask(image, size) * ((image - self.pixel_mean) / self.pixel_std)

    def _sam(self, image: Tensor, size: Tensor) -> Tensor | None:
        model = self._model[0]
        if model.encoders.sam is None or not model.uses_sam:
            return None
        embedding: Tensor = model.encoders.sam(
            _valid_mask(image, size) * ((image - self.sam_mean) / self.sam_std)
        )
        return embedding


def _valid_mask(image: Tensor, size: Tensor) -> Tensor:
    """(H, W) float: 1 in the image, 0 in its padding."""
    rows = torch.arange(image.shape[-2], device=image.device) < size[0]
    columns = torch.arange(image.shape[-1], device=image.device) < size[1]
    return (rows[:, None] & columns).to(image.dtype)


def check_size(size: tuple[int, int]) -> None:
    """Raises ConfigError unless the network accepts an image size (H, W)."""
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
    """Inputs of ExportNetwork by name: smooth noise as the image, random unit vectors as text embeddings.

    Args:
        network: determines the device and the embedding width.
        size: (H, W) with padding.
        synonyms: number of synonyms, at least `classes`.
        classes: number of classes.
        padding: padded rows and columns in `size`.
        seed: seed of the random values.
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
    """Traces the network with torch.export.

    Args:
        network: the network.
        size: (H, W) of the example, and of all images if not `dynamic`.
        dynamic: whether images may have other sizes. The numbers of classes and synonyms are always dynamic.
    Raises:
        ConfigError: the network does not accept the size.
    """
    check_size(size)
    example = example_inputs(network, size, synonyms=7, classes=5)
    with torch.no_grad():
        # Fills the encoders' caches of tensors, which would get symbolic sizes inside torch.export.
        network(**example)
        shapes = _dynamic_shapes(dynamic)
        return torch.export.export(network, (), kwargs=example, dynamic_shapes=shapes, strict=False)


def _dynamic_shapes(dynamic: bool) -> dict[str, Any]:
    """Dynamic dimensions: {input: {axis: symbol}}."""
    synonyms, classes = Dim("synonyms", min=1, max=MAX_NAMES), Dim("classes", min=1, max=MAX_NAMES)
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
