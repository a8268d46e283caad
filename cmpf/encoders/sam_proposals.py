# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""SAM's own masks for a whole image: a grid of point prompts, filtered (paper: OpenSeg Ensemble)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from segment_anything.modeling import MaskDecoder
from torch import Tensor
from torchvision.ops import nms

from cmpf.common.regions import remove_small_regions
from cmpf.common.tensors import masks_to_boxes, without_autocast
from cmpf.encoders.frozen import FrozenModule
from cmpf.encoders.linear import replace_layers
from cmpf.encoders.sam import SAMEncoder
from cmpf.encoders.sam_decoder import SharedMaskDecoder


@dataclass(frozen=True)
class Proposals:
    """SAM's masks of one image at SAM's own resolution; at the image's they would be the largest tensors of all.

    logits: (M, h, w) float32 over the padded image, the largest mask first.
    padded, unpadded: (H, W) of the padded image and of the image at its top left. Equal where there is no padding.
    """

    logits: Tensor
    padded: tuple[int, int]
    unpadded: tuple[int, int]

    def __len__(self) -> int:
        return len(self.logits)


@dataclass(frozen=True)
class _Found:
    """Mask logits (N, h, w), SAM's own estimate of their IoU (N,), boxes (N, 4) in cells."""

    logits: Tensor
    quality: Tensor
    boxes: Tensor

    @classmethod
    def nothing(cls, embedding_1Shw: Tensor) -> _Found:
        """SAM's masks are four times as large as its embedding."""
        height, width = embedding_1Shw.shape[-2:]
        empty = embedding_1Shw.new_zeros
        return cls(empty(0, 4 * height, 4 * width), empty(0), empty(0, 4))

    def joined(self, other: _Found) -> _Found:
        return _Found(
            torch.cat([self.logits, other.logits]),
            torch.cat([self.quality, other.quality]),
            torch.cat([self.boxes, other.boxes]),
        )


class SAMProposer(FrozenModule):
    """Segments everything in an image, without classes.

    A point grid over the image prompts SAM's mask decoder for three masks per point. Those stay whose
    predicted IoU and stability are high. Of near-duplicates the best stays (box NMS). Small islands and holes
    go, and duplicates that this makes. The largest masks are returned.

    Args:
        encoder: the SAM; may be the one that also makes the model's features.
        points_per_side: side of the square point grid over the image.
        coarse_points_per_side: side of a grid that is asked first; of the other one then only the points that no
            mask found so far covers. 0 = there is one grid.
        iou_threshold: least IoU that SAM predicts for its own mask.
        stability_threshold: least IoU of the mask cut at `+stability_offset` with the one cut at minus that.
        nms_threshold: box IoU above which the one of lower predicted IoU goes.
        min_area: islands and holes of fewer pixels go.
        max_masks: the largest that are kept.
        points_per_batch: prompts in one pass of the mask decoder; bounds memory.
        stability_offset: in logits.
    """

    def __init__(
        self,
        *,
        encoder: SAMEncoder,
        points_per_side: int,
        coarse_points_per_side: int,
        iou_threshold: float,
        stability_threshold: float,
        nms_threshold: float,
        min_area: int,
        max_masks: int,
        points_per_batch: int = 64,
        stability_offset: float = 1.0,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.points_per_side = points_per_side
        self.coarse_points_per_side = coarse_points_per_side
        self.iou_threshold = iou_threshold
        self.stability_threshold = stability_threshold
        self.nms_threshold = nms_threshold
        self.min_area = min_area
        self.max_masks = max_masks
        self.points_per_batch = points_per_batch
        self.stability_offset = stability_offset
        replace_layers(encoder, MaskDecoder, SharedMaskDecoder)
        self.freeze()

    @torch.no_grad()
    def forward(
        self, embedding_1Shw: Tensor, *, padded: tuple[int, int], unpadded: tuple[int, int]
    ) -> Proposals:
        """Masks of one image, in float32 whatever autocast says.

        Args:
            embedding_1Shw: what `encoder` makes of the padded image.
            padded: (H, W) of the padded image that the encoder squashed to its square.
            unpadded: (H, W) of the image without padding, at its top left.
        """
        with without_autocast(embedding_1Shw.device):
            embedding = embedding_1Shw.float()
            points = point_grid(self.points_per_side, self.encoder.input_size, padded, unpadded)
            coarse = point_grid(self.coarse_points_per_side, self.encoder.input_size, padded, unpadded)
            found = self._good_ones(embedding, coarse, padded, unpadded)
            found = found.joined(self._good_ones(embedding, self._uncovered(points, found), padded, unpadded))
            logits = found.logits[nms(found.boxes, found.quality, self.nms_threshold)]
            return Proposals(self._clean_and_largest(logits, padded, unpadded), padded, unpadded)

    @torch.no_grad()
    def masks_at(
        self, embedding_1Shw: Tensor, points_N2: Tensor, *, least_quality: float | None = None
    ) -> tuple[Tensor, Tensor]:
        """Three masks per point, as SAM's mask decoder gives them.

        Args:
            embedding_1Shw: image embedding.
            points_N2: foreground points, x and y in pixels of SAM's square input.
            least_quality: points of which no mask reaches this predicted IoU are left out; None = none is.
        Returns:
            (N, 3, 4h, 4w) logits, and (N, 3) predicted IoU.
        """
        sam: Any = self.encoder.sam
        labels = torch.ones(len(points_N2), 1, dtype=torch.int, device=points_N2.device)
        sparse, dense = sam.prompt_encoder(points=(points_N2[:, None], labels), boxes=None, masks=None)
        logits, quality = sam.mask_decoder(
            image_embeddings=embedding_1Shw,
            image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
            least_quality=least_quality,
        )
        return logits, quality

    def _good_ones(
        self, embedding: Tensor, points_N2: Tensor, padded: tuple[int, int], unpadded: tuple[int, int]
    ) -> _Found:
        """The masks at these points that pass both thresholds."""
        found = _Found.nothing(embedding)
        for first in range(0, len(points_N2), self.points_per_batch):
            points = points_N2[first : first + self.points_per_batch].to(embedding.device)
            logits, quality = self.masks_at(embedding, points, least_quality=self.iou_threshold)
            promising = quality >= self.iou_threshold
            logits, quality = logits[promising], quality[promising]
            inside = _inside(logits, padded, unpadded)
            smaller = (inside > self.stability_offset).flatten(1).sum(dim=1, dtype=torch.int32)
            larger = (inside > -self.stability_offset).flatten(1).sum(dim=1, dtype=torch.int32)
            boxes = masks_to_boxes(inside > 0)
            stable = smaller / larger.clamp(min=1) >= self.stability_threshold
            keep = stable & (boxes[:, 2] > boxes[:, 0])  # an empty mask has an empty box
            found = found.joined(_Found(logits[keep], quality[keep], boxes[keep]))
        return found

    def _uncovered(self, points_N2: Tensor, found: _Found) -> Tensor:
        """Points that lie in no mask."""
        if not len(found.logits):
            return points_N2
        height, width = found.logits.shape[1:]
        x = (points_N2[:, 0] * (width / self.encoder.input_size)).long()
        y = (points_N2[:, 1] * (height / self.encoder.input_size)).long()
        return points_N2[~(found.logits[:, y, x] > 0).any(dim=0).cpu()]

    def _clean_and_largest(
        self, logits: Tensor, padded: tuple[int, int], unpadded: tuple[int, int]
    ) -> Tensor:
        """Removes small regions, then masks that became duplicates; the largest ones, largest first."""
        before = _inside(logits, padded, unpadded) > 0
        cell = padded[0] * padded[1] / (logits.shape[1] * logits.shape[2])  # its area in pixels
        after = remove_small_regions(before.cpu().numpy(), min_area=self.min_area / cell)
        cleaned = torch.from_numpy(after).to(logits.device)
        # Among duplicates those stay that are SAM's own.
        unchanged = (cleaned == before).flatten(1).all(dim=1)
        kept = nms(masks_to_boxes(cleaned).float(), unchanged.float(), self.nms_threshold)
        areas = cleaned[kept].flatten(1).sum(dim=1)
        largest = kept[areas.argsort(descending=True, stable=True)[: self.max_masks]]
        logits, cleaned = logits[largest].clone(), cleaned[largest]
        height, width = cleaned.shape[1:]
        logits[:, :height, :width] = _with_sign(logits[:, :height, :width], cleaned)
        return logits


def point_grid(side: int, input_size: int, padded: tuple[int, int], unpadded: tuple[int, int]) -> Tensor:
    """Centers of a grid over the unpadded image, row by row: (side * side, 2) x and y in SAM's square input.

    Args:
        input_size: side of that square, which the padded image is squashed to.
    """
    steps = (torch.arange(side) + 0.5) / max(side, 1)
    x = steps * (input_size * unpadded[1] / padded[1])
    y = steps * (input_size * unpadded[0] / padded[0])
    return torch.cartesian_prod(y, x).flip(1)


def _inside(logits_Nhw: Tensor, padded: tuple[int, int], unpadded: tuple[int, int]) -> Tensor:
    """The cells that show the image, not the padding at its right and bottom."""
    height, width = logits_Nhw.shape[1:]
    return logits_Nhw[:, : -(-height * unpadded[0] // padded[0]), : -(-width * unpadded[1] // padded[1])]


def _with_sign(logits: Tensor, masks: Tensor) -> Tensor:
    """Logits that are positive exactly inside the masks; where the sign was other, its amount stays."""
    amount = logits.abs().clamp(min=torch.finfo(logits.dtype).tiny)
    return torch.where(masks, amount, -amount)
