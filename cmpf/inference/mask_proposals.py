# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""SAM's automatic masks of an image, made in the call or read from a cache, and named by CLIP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmpf.common.tensors import resize_bilinear
from cmpf.encoders.clip import CLIP
from cmpf.encoders.pair import SharedEmbedding, sam_input
from cmpf.encoders.sam_proposals import Proposals, SAMProposer
from cmpf.errors import EvaluationError
from cmpf.inference.mask_naming import MaskNaming
from cmpf.inference.resize import restore_size
from cmpf.inference.settings import ImageGeometry, SAMEvidence
from cmpf.types import ClassEmbeddings, FrozenFeatures, Sample

if TYPE_CHECKING:
    from cmpf.inference.proposal_cache import ProposalCache

OUTSIDE = -1.0  # logit of padding: in no mask
CLIP_STRIDE, MASK_STRIDE = 32, 4  # of the dense map, and of the decoder's masks


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

    def masks(self, sample: Sample, *, shared: SharedEmbedding, device: torch.device) -> Proposals:
        """See MaskSource."""
        pixels = sam_input([sample["image"]], divisor=self.size_divisibility, device=device)
        embedding = shared(self.proposer.encoder)
        if embedding is None:
            embedding = self.proposer.encoder(pixels)
        proposals: Proposals = self.proposer(embedding, padded=_size(pixels), unpadded=_size(sample["image"]))
        return proposals


class CachedMasks:
    """Masks that cmpf save-sam-masks made; no SAM runs.

    Args:
        cache: the folder of masks.
    """

    def __init__(self, cache: ProposalCache) -> None:
        self.cache = cache

    def masks(self, sample: Sample, *, shared: SharedEmbedding, device: torch.device) -> Proposals:
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
        return replace(found, logits=found.logits.to(device))


def sam_evidence(
    clip: CLIP,
    proposals: Proposals,
    dense_1Chw: Tensor,
    *,
    naming: MaskNaming,
    classes: ClassEmbeddings,
    geometry: ImageGeometry,
    published_pooling: bool,
) -> SAMEvidence:
    """Names SAM's masks by CLIP (paper: OpenSeg Ensemble).

    Args:
        clip, naming: give a mask its class logits.
        proposals: SAM's masks of one image.
        dense_1Chw: CLIP's dense map of the padded image.
        classes: the vocabulary with void as its last class.
        published_pooling: pad the mask at the map's size with zeros to a multiple of 32, which the pooling
            then shrinks to the map once more, as in the published code; it no longer lies over what it shows.
    """
    cells = (dense_1Chw.shape[-2], dense_1Chw.shape[-1])
    if published_pooling:
        on_map = F.interpolate(at_size(proposals, proposals.unpadded)[None], size=cells, mode="nearest")
        on_map = _pad(on_map, _multiples_of_32(cells), value=0.0)
    else:
        on_map = over_input(proposals, padded=geometry.padded, unpadded=geometry.unpadded)[None]
        if not naming.reads_whole_masks:
            on_map = F.interpolate(on_map, size=cells, mode="nearest")
    logits, valid = naming(clip, dense_1Chw, on_map, classes)
    probabilities = logits[0].softmax(dim=-1)
    if not clip.embeds_empty_masks:
        probabilities = probabilities * valid[0, :, None]  # no vote for any class
    return SAMEvidence(proposals=proposals, class_probs=probabilities)


def with_proposals(
    features: FrozenFeatures,
    masks: Sequence[Proposals | None],
    number: int,
    unpadded: Sequence[tuple[int, int]],
) -> FrozenFeatures:
    """Features of a batch with the largest of SAM's masks, at which queries start.

    Args:
        masks: of each image.
        number: how many an image has room for.
        unpadded: sizes (H, W) of the images without padding.
    """
    rows, columns = features.clip.dense.shape[-2:]
    padded = (rows * CLIP_STRIDE, columns * CLIP_STRIDE)
    size = (padded[0] // MASK_STRIDE, padded[1] // MASK_STRIDE)
    maps = torch.zeros(len(masks), number, *size, device=features.clip.dense.device)
    for row, found, own in zip(maps, masks, unpadded, strict=True):
        if found:
            largest = replace(found, logits=found.logits[:number])
            logits = over_input(largest, padded=padded, unpadded=own)
            row[: len(logits)] = resize_bilinear(logits[None], size)[0]
    return replace(features, proposals=maps)


def over_input(proposals: Proposals, *, padded: tuple[int, int], unpadded: tuple[int, int]) -> Tensor:
    """Logits (M, h, w) over the padded input, at whatever resolution is at hand; padding is in no mask."""
    if (proposals.padded, proposals.unpadded) == (padded, unpadded):
        return proposals.logits
    return _pad(at_size(proposals, unpadded), padded, value=OUTSIDE)


def at_size(proposals: Proposals, size: tuple[int, int]) -> Tensor:
    """Logits (M, H, W) of the image without padding."""
    return restore_size(
        proposals.logits[None], padded=proposals.padded, unpadded=proposals.unpadded, output=size
    )[0]


def _size(image: Tensor) -> tuple[int, int]:
    return image.shape[-2], image.shape[-1]


def _pad(maps: Tensor, size: tuple[int, int], *, value: float) -> Tensor:
    """Padding at the right and at the bottom, up to a size (H, W)."""
    return F.pad(maps, (0, size[1] - maps.shape[-1], 0, size[0] - maps.shape[-2]), value=value)


def _multiples_of_32(size: tuple[int, int]) -> tuple[int, int]:
    return -(-size[0] // 32) * 32, -(-size[1] // 32) * 32
