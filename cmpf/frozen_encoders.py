# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The frozen half of CMPF: CLIP and SAM over a batch, and SAM's masks named by CLIP."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmpf.encoders.clip import CLIP
from cmpf.encoders.sam import SAMEncoder
from cmpf.encoders.sam_proposals import SAMProposer
from cmpf.functional import normalize_and_pad, resize_bilinear
from cmpf.inference import ImageGeometry, SAMEvidence
from cmpf.modeling.classification import class_logits
from cmpf.types import ClassEmbeddings, FrozenFeatures, Sample

SAM_PIXEL_MEAN = (123.675, 116.28, 103.53)
SAM_PIXEL_STD = (58.395, 57.12, 57.375)
OUTSIDE = -1.0  # logit of padding: in no mask


class FrozenEncoders(nn.Module):
    """CLIP, SAM and SAM's mask proposals; nothing in here is trained or stored in checkpoints.

    Args:
        clip: frozen CLIP, image and text.
        sam: frozen SAM whose embedding the injectors read; None = neither injector is on.
        proposer: SAM's automatic masks for the OpenSeg Ensemble; None = only masks that samples carry.
        pixel_mean, pixel_std: normalisation of CLIP's input, (3,) in 0..255.
        size_divisibility: padded input sizes are multiples of this.
    """

    pixel_mean: Tensor
    pixel_std: Tensor
    sam_pixel_mean: Tensor
    sam_pixel_std: Tensor

    def __init__(
        self,
        *,
        clip: CLIP,
        sam: SAMEncoder | None,
        proposer: SAMProposer | None,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        size_divisibility: int,
    ) -> None:
        super().__init__()
        self.clip = clip
        self.sam = sam
        self.proposer = proposer
        self.size_divisibility = size_divisibility
        for name, values in (
            ("pixel_mean", pixel_mean),
            ("pixel_std", pixel_std),
            ("sam_pixel_mean", SAM_PIXEL_MEAN),
            ("sam_pixel_std", SAM_PIXEL_STD),
        ):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the encoders live."""
        return self.pixel_mean.device

    def hashes(self) -> dict[str, str]:
        """Name -> content hash of the encoders that trained weights belong to."""
        return {part.name: part.weights_hash for part in (self.clip, self.sam) if part is not None}

    def forward(
        self, batch: Sequence[Sample], *, with_sam: bool
    ) -> tuple[FrozenFeatures, tuple[int, int], list[tuple[int, int]]]:
        """Features of a batch.

        Args:
            batch: samples with `image` (3, H, W) RGB 0..255.
            with_sam: whether SAM's embedding is needed.
        Returns:
            Features; the padded size (H, W) of the batch; the B sizes without padding.
        """
        images, sizes = normalize_and_pad(
            [sample["image"] for sample in batch],
            mean=self.pixel_mean,
            std=self.pixel_std,
            divisor=self.size_divisibility,
        )
        embedding = None
        if with_sam and self.sam is not None:
            embedding = self.sam(self._sam_input(batch))
        padded = (images.shape[-2], images.shape[-1])
        return FrozenFeatures(clip=self.clip(images), sam=embedding), padded, sizes

    def masks(
        self, sample: Sample, features: FrozenFeatures, index: int, geometry: ImageGeometry
    ) -> Tensor | None:
        """SAM's mask logits (M, H, W) of one picture: its own `sam_masks`, else the proposer's; None = no source."""
        if "sam_masks" in sample:
            return sample["sam_masks"].to(self.device)
        if self.proposer is None:
            return None
        if self.proposer.encoder is self.sam and features.sam is not None:
            embedding = features.sam[index : index + 1]
        else:
            embedding = self.proposer.encoder(_pad(self._sam_input([sample]), geometry.padded, value=0.0))
        masks: Tensor = self.proposer(embedding, padded=geometry.padded, unpadded=geometry.unpadded)
        return masks

    def evidence(
        self,
        masks_MHW: Tensor,
        dense_1Chw: Tensor,
        *,
        classes: ClassEmbeddings,
        geometry: ImageGeometry,
        size: tuple[int, int],
        published_pooling: bool,
    ) -> SAMEvidence:
        """Names SAM's masks by CLIP (paper: OpenSeg Ensemble).

        Args:
            masks_MHW: mask logits of one picture without padding, at any size.
            dense_1Chw: CLIP's dense map of the padded picture.
            classes: the vocabulary with void as its last class.
            size: (H, W) of the semantic sum, which the masks are brought to.
            published_pooling: pad the mask at the map's size to a multiple of 32 and shrink it to the map once
                more, as the published code does; it then no longer lies over what it shows.
        """
        cells = (dense_1Chw.shape[-2], dense_1Chw.shape[-1])
        if published_pooling:
            on_map = F.interpolate(masks_MHW[None], size=cells, mode="nearest")
            on_map = F.interpolate(
                _pad(on_map, _multiples_of_32(cells), value=OUTSIDE), size=cells, mode="nearest"
            )
        else:
            on_input = resize_bilinear(masks_MHW[None], geometry.unpadded)
            on_map = F.interpolate(_pad(on_input, geometry.padded, value=OUTSIDE), size=cells, mode="nearest")
        embeddings, _ = self.clip.embed_masks(dense_1Chw, on_map)
        probabilities = class_logits(embeddings, classes, self.clip.logit_scale)[0].float().softmax(dim=-1)
        return SAMEvidence(masks=resize_bilinear(masks_MHW[None], size)[0], class_probs=probabilities[:, :-1])

    def _sam_input(self, batch: Sequence[Sample]) -> Tensor:
        images, _ = normalize_and_pad(
            [sample["image"] for sample in batch],
            mean=self.sam_pixel_mean,
            std=self.sam_pixel_std,
            divisor=self.size_divisibility,
        )
        return images


def _pad(maps: Tensor, size: tuple[int, int], *, value: float) -> Tensor:
    """Padding at the right and at the bottom, up to a size (H, W)."""
    return F.pad(maps, (0, size[1] - maps.shape[-1], 0, size[0] - maps.shape[-2]), value=value)


def _multiples_of_32(size: tuple[int, int]) -> tuple[int, int]:
    return -(-size[0] // 32) * 32, -(-size[1] // 32) * 32
