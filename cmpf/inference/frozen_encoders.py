# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The frozen half of CMPF: CLIP and SAM over a batch, and SAM's masks named by CLIP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmpf.common.tensors import device_constant, normalize_and_pad, resize_bilinear
from cmpf.encoders.clip import CLIP
from cmpf.encoders.sam import SAMEncoder
from cmpf.encoders.sam_proposals import SAMProposer, full_size_masks
from cmpf.encoders.side_stream import start_beside
from cmpf.errors import EvaluationError
from cmpf.inference.pipeline import ImageGeometry, SAMEvidence
from cmpf.inference.proposal_cache import CachedProposals, ProposalCache
from cmpf.modeling.classification import class_logits
from cmpf.types import ClassEmbeddings, FrozenFeatures, Sample

SAM_PIXEL_MEAN = (123.675, 116.28, 103.53)
SAM_PIXEL_STD = (58.395, 57.12, 57.375)
OUTSIDE = -1.0  # logit of padding: in no mask


class MaskSource(Protocol):
    """Where SAM's automatic masks of an image come from."""

    def masks(self, sample: Sample, *, shared: SharedEmbedding, device: torch.device) -> Tensor:
        """Mask logits (M, H, W) at the size of the sample's image, on a device.

        Args:
            sample: one image, `image` (3, H, W) RGB 0..255.
            shared: what a SAM made of this image alone, if it has already run, else None.
        """


SharedEmbedding = Callable[[SAMEncoder], "Tensor | None"]


class OnlineMasks(nn.Module):
    """SAM runs in the call.

    An image's masks are made from this image alone, whatever else is in its batch: padding and rounding of a
    batch change them a little, and masks from the cache would no longer be the same.

    Args:
        proposer: SAM's automatic masks.
        size_divisibility: the image is padded to a multiple of this.
    """

    def __init__(self, *, proposer: SAMProposer, size_divisibility: int) -> None:
        super().__init__()
        self.proposer = proposer
        self.size_divisibility = size_divisibility

    def masks(self, sample: Sample, *, shared: SharedEmbedding, device: torch.device) -> Tensor:
        """See MaskSource."""
        embedding, padded, unpadded = self._embed(sample["image"], shared, device)
        masks: Tensor = self.proposer(embedding, padded=padded, unpadded=unpadded)
        return masks

    def propose(self, image_3HW: Tensor, *, device: torch.device) -> CachedProposals:
        """The masks of an image in the form that the cache keeps."""
        embedding, padded, unpadded = self._embed(image_3HW, lambda _: None, device)
        logits, flipped = self.proposer.compact(embedding, padded=padded, unpadded=unpadded)
        return CachedProposals(logits, flipped, padded, self.proposer.encoder.input_size)

    def _embed(
        self, image_3HW: Tensor, shared: SharedEmbedding, device: torch.device
    ) -> tuple[Tensor, tuple[int, int], tuple[int, int]]:
        """SAM's embedding of an image, its size with padding and without."""
        pixels = sam_input([image_3HW], divisor=self.size_divisibility, device=device)
        embedding = shared(self.proposer.encoder)
        if embedding is None:
            embedding = self.proposer.encoder(pixels)
        return embedding, _size(pixels), _size(image_3HW)


class CachedMasks:
    """Masks that tools/save_sam_masks.py made; no SAM runs.

    Args:
        cache: the folder of masks.
    """

    def __init__(self, cache: ProposalCache) -> None:
        self.cache = cache

    def masks(self, sample: Sample, *, shared: SharedEmbedding, device: torch.device) -> Tensor:
        """See MaskSource.

        Raises:
            EvaluationError: the sample names no file, or its masks are missing, damaged or made otherwise.
        """
        if "file_name" not in sample:
            raise EvaluationError(
                "TEST.ENSEMBLE.SOURCE is cache, which finds SAM's masks by the image's file, and this sample "
                "has no file_name; set TEST.ENSEMBLE.SOURCE online, or give the sample sam_masks"
            )
        found = self.cache.load(sample["file_name"], input_size=_size(sample["image"]))
        return full_size_masks(
            found.logits.to(device), found.flipped.to(device), side=found.side, padded=found.padded
        )


class FrozenEncoders(nn.Module):
    """CLIP, SAM and SAM's mask proposals; nothing in here is trained or stored in checkpoints.

    Args:
        clip: frozen CLIP, image and text.
        sam: frozen SAM whose embedding the injectors read; None = neither injector is on.
        mask_source: SAM's automatic masks for the OpenSeg Ensemble; None = only masks that samples carry.
        pixel_mean, pixel_std: normalization of CLIP's input, (3,) in 0..255.
        size_divisibility: padded input sizes are multiples of this.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        *,
        clip: CLIP,
        sam: SAMEncoder | None,
        mask_source: MaskSource | None,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        size_divisibility: int,
    ) -> None:
        super().__init__()
        self.clip = clip
        self.sam = sam
        self.mask_source = mask_source
        self.size_divisibility = size_divisibility
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the encoders live."""
        return self.pixel_mean.device

    @property
    def proposer(self) -> SAMProposer | None:
        """What makes SAM's masks in the call; None where they come from the cache or from samples only."""
        return self.mask_source.proposer if isinstance(self.mask_source, OnlineMasks) else None

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
        padded = (images.shape[-2], images.shape[-1])
        if not with_sam or self.sam is None:
            return FrozenFeatures(clip=self.clip(images), sam=None), padded, sizes
        embedding = start_beside(partial(self._embed, self.sam, batch), self.device)
        return FrozenFeatures(clip=self.clip(images), sam=embedding()), padded, sizes

    def masks(self, sample: Sample, features: FrozenFeatures) -> Tensor | None:
        """SAM's mask logits (M, H, W) of one image: its own `sam_masks`, else the source's; None = no source.

        SAM runs only where neither the sample nor a cache has masks; then not again if it has already seen this
        image alone, for the injectors.

        Args:
            sample: one image of a batch. features: those of the batch.
        """
        if "sam_masks" in sample:
            return sample["sam_masks"].to(self.device)
        if self.mask_source is None:
            return None

        def shared(encoder: SAMEncoder) -> Tensor | None:
            alone = features.sam is not None and len(features.sam) == 1
            return features.sam if alone and encoder is self.sam else None

        return self.mask_source.masks(sample, shared=shared, device=self.device)

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
            masks_MHW: mask logits of one image without padding, at any size.
            dense_1Chw: CLIP's dense map of the padded image.
            classes: the vocabulary with void as its last class.
            size: (H, W) of the semantic sum, which the masks are brought to.
            published_pooling: pad the mask at the map's size with zeros to a multiple of 32, which the pooling
                then shrinks to the map once more, as in the published code; it no longer lies over what it shows.
        """
        cells = (dense_1Chw.shape[-2], dense_1Chw.shape[-1])
        if published_pooling:
            on_map = F.interpolate(masks_MHW[None], size=cells, mode="nearest")
            on_map = _pad(on_map, _multiples_of_32(cells), value=0.0)
        else:
            on_input = resize_bilinear(masks_MHW[None], geometry.unpadded)
            on_map = F.interpolate(_pad(on_input, geometry.padded, value=OUTSIDE), size=cells, mode="nearest")
        embeddings, valid = self.clip.embed_masks(dense_1Chw, on_map)
        probabilities = class_logits(embeddings, classes, self.clip.logit_scale)[0].float().softmax(dim=-1)
        if not self.clip.embeds_empty_masks:
            probabilities = probabilities * valid[0, :, None]  # no vote for any class
        return SAMEvidence(masks=resize_bilinear(masks_MHW[None], size)[0], class_probs=probabilities[:, :-1])

    def _embed(self, sam: SAMEncoder, batch: Sequence[Sample]) -> Tensor:
        images = [sample["image"] for sample in batch]
        embedding: Tensor = sam(sam_input(images, divisor=self.size_divisibility, device=self.device))
        return embedding.float()  # whatever SAM computes in: the decoder may run without autocast


def sam_input(images: Sequence[Tensor], *, divisor: int, device: torch.device) -> Tensor:
    """Images as SAM's encoder takes them: its own normalization, then zero padding to one common size.

    Args:
        images: B images (3, H, W), RGB, 0..255.
        divisor: the common height and width are multiples of this.
    Returns:
        (B, 3, H, W) float32.
    """
    mean, std = (
        device_constant(values, dtype=torch.float32, device=device)
        for values in (SAM_PIXEL_MEAN, SAM_PIXEL_STD)
    )
    return normalize_and_pad(list(images), mean=mean, std=std, divisor=divisor)[0]


def _size(image: Tensor) -> tuple[int, int]:
    return image.shape[-2], image.shape[-1]


def _pad(maps: Tensor, size: tuple[int, int], *, value: float) -> Tensor:
    """Padding at the right and at the bottom, up to a size (H, W)."""
    return F.pad(maps, (0, size[1] - maps.shape[-1], 0, size[0] - maps.shape[-2]), value=value)


def _multiples_of_32(size: tuple[int, int]) -> tuple[int, int]:
    return -(-size[0] // 32) * 32, -(-size[1] // 32) * 32
