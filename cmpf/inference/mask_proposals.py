# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""SAM's automatic masks of an image, computed online or read from a cache, and their classification by CLIP."""

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

OUTSIDE_LOGIT = -1.0  # mask logit of padding
CLIP_STRIDE, MASK_STRIDE = 32, 4  # of CLIP's dense feature map, and of the decoder's masks


class OnlineMasks(nn.Module):
    """Mask source that runs SAM's mask generation on each image.

    Each image is processed alone, because the padding and rounding of a batch change its masks slightly, and they
    would differ from cached ones.

    Args:
        proposer: SAM's automatic mask generator.
        size_divisibility: the image is padded to a multiple of this.
    """

    def __init__(self, *, proposer: SAMProposer, size_divisibility: int) -> None:
        super().__init__()
        self.proposer = proposer
        self.size_divisibility = size_divisibility

    def masks(self, sample: Sample, *, shared: SharedEmbedding, device: torch.device) -> Proposals:
        """See MaskSource."""
        image = sam_input([sample["image"]], divisor=self.size_divisibility, device=device)
        embedding = shared(self.proposer.encoder)
        if embedding is None:
            embedding = self.proposer.encoder(image)
        proposals: Proposals = self.proposer(embedding, padded=_size(image), unpadded=_size(sample["image"]))
        return proposals


class CachedMasks:
    """Mask source that reads the files of cmpf save-sam-masks; SAM does not run.

    Args:
        cache: the mask cache.
    """

    def __init__(self, cache: ProposalCache) -> None:
        self.cache = cache

    def masks(self, sample: Sample, *, shared: SharedEmbedding, device: torch.device) -> Proposals:
        """See MaskSource.

        Raises:
            EvaluationError: the sample has no file_name, or its masks are missing, damaged or made with other settings.
        """
        if "file_name" not in sample:
            raise EvaluationError(
                "TEST.ENSEMBLE.SOURCE is cache, which finds SAM's masks by the image's file, and this sample "
                "has no file_name; set TEST.ENSEMBLE.SOURCE online, or give the sample sam_masks"
            )
        proposals = self.cache.load(sample["file_name"], input_size=_size(sample["image"]))
        return replace(proposals, logits=proposals.logits.to(device))


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
    """Classifies SAM's masks by CLIP (paper: OpenSeg Ensemble).

    Args:
        clip, naming: CLIP and its mask classification.
        proposals: SAM's masks of one image.
        dense_1Chw: CLIP's dense feature map of the padded image.
        classes: the vocabulary with void as its last class.
        published_pooling: as in the published code, zero-pad the mask, already at the feature map's size, to a multiple
            of 32; pooling resizes it to the feature map again, so that it is no longer aligned with the image.
    """
    map_size = _size(dense_1Chw)
    if published_pooling:
        masks = F.interpolate(at_size(proposals, proposals.unpadded)[None], size=map_size, mode="nearest")
        masks = _pad(masks, _round_up_to_32(map_size), value=0.0)
    else:
        masks = over_input(proposals, padded=geometry.padded, unpadded=geometry.unpadded)[None]
        if not naming.reads_fine_masks:
            masks = F.interpolate(masks, size=map_size, mode="nearest")
    logits, valid = naming(clip, dense_1Chw, masks, classes)
    class_probs = logits[0].softmax(dim=-1)
    if not clip.embeds_empty_masks:
        class_probs = class_probs * valid[0, :, None]
    return SAMEvidence(proposals=proposals, class_probs=class_probs)


def with_proposals(
    features: FrozenFeatures,
    masks: Sequence[Proposals | None],
    number: int,
    unpadded: Sequence[tuple[int, int]],
) -> FrozenFeatures:
    """Adds SAM's largest masks, which initialize proposal queries, to the features of a batch.

    Args:
        masks: SAM's masks of each image, largest first.
        number: maximum number of masks per image.
        unpadded: sizes (H, W) of the images without padding.
    """
    rows, columns = features.clip.dense.shape[-2:]
    padded = (rows * CLIP_STRIDE, columns * CLIP_STRIDE)
    size = (padded[0] // MASK_STRIDE, padded[1] // MASK_STRIDE)
    batch_logits = torch.zeros(len(masks), number, *size, device=features.clip.dense.device)
    for image_logits, proposals, image_size in zip(batch_logits, masks, unpadded, strict=True):
        if proposals:
            largest = replace(proposals, logits=proposals.logits[:number])
            logits = over_input(largest, padded=padded, unpadded=image_size)
            image_logits[: len(logits)] = resize_bilinear(logits[None], size)[0]
    return replace(features, proposals=batch_logits)


def over_input(proposals: Proposals, *, padded: tuple[int, int], unpadded: tuple[int, int]) -> Tensor:
    """Logits (M, h, w) that cover the padded input, at any resolution; padding is outside all masks."""
    if (proposals.padded, proposals.unpadded) == (padded, unpadded):
        return proposals.logits
    return _pad(at_size(proposals, unpadded), padded, value=OUTSIDE_LOGIT)


def at_size(proposals: Proposals, size: tuple[int, int]) -> Tensor:
    """Logits (M, H, W) of the image without padding, resized to a size (H, W)."""
    return restore_size(
        proposals.logits[None], padded=proposals.padded, unpadded=proposals.unpadded, output=size
    )[0]


def _size(image: Tensor) -> tuple[int, int]:
    return image.shape[-2], image.shape[-1]


def _pad(maps: Tensor, size: tuple[int, int], *, value: float) -> Tensor:
    """Pads the right and bottom to a size (H, W)."""
    return F.pad(maps, (0, size[1] - maps.shape[-1], 0, size[0] - maps.shape[-2]), value=value)


def _round_up_to_32(size: tuple[int, int]) -> tuple[int, int]:
    return -(-size[0] // 32) * 32, -(-size[1] // 32) * 32
