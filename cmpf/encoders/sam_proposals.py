# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""SAM's automatic mask generation: masks of a grid of point prompts, filtered (paper: OpenSeg Ensemble)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import nms

from cmpf.common.regions import remove_small_regions
from cmpf.common.tensors import masks_to_boxes, without_autocast
from cmpf.encoders.frozen import FrozenModule
from cmpf.encoders.sam import SAMEncoder


@dataclass(frozen=True)
class Proposals:
    """SAM's masks of one image, stored at SAM's own resolution to save memory.

    logits: (M, h, w) float32 over the padded image, largest mask first.
    padded, unpadded: (H, W) of the padded image and of the image at its top left.
    """

    logits: Tensor
    padded: tuple[int, int]
    unpadded: tuple[int, int]

    def __len__(self) -> int:
        return len(self.logits)


@dataclass(frozen=True)
class _Candidates:
    """Mask logits (N, h, w), predicted IoU (N,), and boxes (N, 4) in pixels of the logits."""

    logits: Tensor
    iou: Tensor
    boxes: Tensor

    @classmethod
    def empty(cls, embedding_1Shw: Tensor) -> _Candidates:
        height, width = embedding_1Shw.shape[-2:]
        zeros = embedding_1Shw.new_zeros
        # Masks are 4 times as large as the embedding.
        return cls(zeros(0, 4 * height, 4 * width), zeros(0), zeros(0, 4))

    def joined(self, other: _Candidates) -> _Candidates:
        return _Candidates(
            torch.cat([self.logits, other.logits]),
            torch.cat([self.iou, other.iou]),
            torch.cat([self.boxes, other.boxes]),
        )


class SAMProposer(FrozenModule):
    """Class-agnostic mask generation with SAM.

    A grid of points over the image prompts SAM's mask decoder for three masks per point. Masks are filtered by
    predicted IoU, stability and box NMS; small islands and holes are removed, then duplicates that result from this.
    The largest masks are returned.

    Args:
        encoder: the SAM; may be shared with the model's features.
        points_per_side: side of the square point grid over the image.
        coarse_points_per_side: side of a coarser grid that is used first; the fine grid is then restricted to points
            that no mask covers. 0 = no coarse grid.
        iou_threshold: minimum predicted IoU.
        stability_threshold: minimum IoU of the masks at logit thresholds `+stability_offset` and `-stability_offset`.
        nms_threshold: box IoU above which the mask with the lower predicted IoU is dropped.
        min_area: islands and holes with fewer pixels are removed.
        max_masks: maximum number of masks.
        points_per_batch: prompts per pass of the mask decoder, which bounds memory.
        stability_offset: logit offset of the stability score.
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
        self.freeze()

    @torch.no_grad()
    def forward(
        self, embedding_1Shw: Tensor, *, padded: tuple[int, int], unpadded: tuple[int, int]
    ) -> Proposals:
        """Generates the masks of one image, in float32 even under autocast.

        Args:
            embedding_1Shw: embedding of the padded image by `encoder`.
            padded: (H, W) of the padded image, which the encoder resized to its square input.
            unpadded: (H, W) of the image without padding, at the top left.
        """
        with without_autocast(embedding_1Shw.device):
            embedding = embedding_1Shw.float()
            coarse_grid = point_grid(self.coarse_points_per_side, self.encoder.input_size, padded, unpadded)
            masks = self._candidates(embedding, coarse_grid, padded, unpadded)
            grid = point_grid(self.points_per_side, self.encoder.input_size, padded, unpadded)
            points = self._uncovered_points(grid, masks)
            masks = masks.joined(self._candidates(embedding, points, padded, unpadded))
            logits = masks.logits[nms(masks.boxes, masks.iou, self.nms_threshold)]
            return Proposals(self._clean_and_select(logits, padded, unpadded), padded, unpadded)

    @torch.no_grad()
    def masks_at(
        self, embedding_1Shw: Tensor, points_N2: Tensor, *, min_iou: float | None = None
    ) -> tuple[Tensor, Tensor]:
        """Predicts three masks per point with SAM's mask decoder.

        Args:
            embedding_1Shw: image embedding.
            points_N2: foreground points, (x, y) in pixels of SAM's square input.
            min_iou: points none of whose masks has at least this predicted IoU are dropped; None = off.
        Returns:
            (N, 3, 4h, 4w) logits, and (N, 3) predicted IoU.
        """
        sam: Any = self.encoder.sam
        labels = torch.ones(len(points_N2), 1, dtype=torch.int, device=points_N2.device)
        sparse, dense = sam.prompt_encoder(points=(points_N2[:, None], labels), boxes=None, masks=None)
        logits, iou = sam.mask_decoder(
            image_embeddings=embedding_1Shw,
            image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
            min_iou=min_iou,
        )
        return logits, iou

    def _candidates(
        self, embedding: Tensor, points_N2: Tensor, padded: tuple[int, int], unpadded: tuple[int, int]
    ) -> _Candidates:
        """Masks of the points that pass the IoU and the stability thresholds."""
        candidates = _Candidates.empty(embedding)
        for first in range(0, len(points_N2), self.points_per_batch):
            points = points_N2[first : first + self.points_per_batch].to(embedding.device)
            logits, iou = self.masks_at(embedding, points, min_iou=self.iou_threshold)
            good = iou >= self.iou_threshold
            logits, iou = logits[good], iou[good]
            cropped = _crop_padding(logits, padded, unpadded)
            smaller = (cropped > self.stability_offset).flatten(1).sum(dim=1, dtype=torch.int32)
            larger = (cropped > -self.stability_offset).flatten(1).sum(dim=1, dtype=torch.int32)
            boxes = masks_to_boxes(cropped > 0)
            stable = smaller / larger.clamp(min=1) >= self.stability_threshold
            keep = stable & (boxes[:, 2] > boxes[:, 0])  # an empty mask has an empty box
            candidates = candidates.joined(_Candidates(logits[keep], iou[keep], boxes[keep]))
        return candidates

    def _uncovered_points(self, points_N2: Tensor, masks: _Candidates) -> Tensor:
        """Points outside all masks."""
        if not len(masks.logits):
            return points_N2
        height, width = masks.logits.shape[1:]
        x = (points_N2[:, 0] * (width / self.encoder.input_size)).long()
        y = (points_N2[:, 1] * (height / self.encoder.input_size)).long()
        return points_N2[~(masks.logits[:, y, x] > 0).any(dim=0).cpu()]

    def _clean_and_select(self, logits: Tensor, padded: tuple[int, int], unpadded: tuple[int, int]) -> Tensor:
        """Removes small regions and resulting duplicates, and returns the largest masks, largest first."""
        before = _crop_padding(logits, padded, unpadded) > 0
        pixels_per_cell = padded[0] * padded[1] / (logits.shape[1] * logits.shape[2])
        after = remove_small_regions(before.cpu().numpy(), min_area=self.min_area / pixels_per_cell)
        cleaned = torch.from_numpy(after).to(logits.device)
        # Masks that cleaning did not change take precedence over their duplicates.
        unchanged = (cleaned == before).flatten(1).all(dim=1)
        kept = nms(masks_to_boxes(cleaned).float(), unchanged.float(), self.nms_threshold)
        areas = cleaned[kept].flatten(1).sum(dim=1)
        largest = kept[areas.argsort(descending=True, stable=True)[: self.max_masks]]
        logits, cleaned = logits[largest].clone(), cleaned[largest]
        height, width = cleaned.shape[1:]
        logits[:, :height, :width] = _set_signs(logits[:, :height, :width], cleaned)
        return logits


def point_grid(side: int, input_size: int, padded: tuple[int, int], unpadded: tuple[int, int]) -> Tensor:
    """Cell centers of a grid over the unpadded image, row by row.

    Args:
        side: number of points per side.
        input_size: side of SAM's square input, to which the padded image is resized.
        padded, unpadded: (H, W) of the image with and without padding.
    Returns:
        (side * side, 2), (x, y) in pixels of SAM's square input.
    """
    steps = (torch.arange(side) + 0.5) / max(side, 1)
    x = steps * (input_size * unpadded[1] / padded[1])
    y = steps * (input_size * unpadded[0] / padded[0])
    return torch.cartesian_prod(y, x).flip(1)


def _crop_padding(logits_Nhw: Tensor, padded: tuple[int, int], unpadded: tuple[int, int]) -> Tensor:
    """Crops the padding at the right and the bottom."""
    height, width = logits_Nhw.shape[1:]
    return logits_Nhw[:, : -(-height * unpadded[0] // padded[0]), : -(-width * unpadded[1] // padded[1])]


def _set_signs(logits: Tensor, masks: Tensor) -> Tensor:
    """Makes logits positive inside the masks and negative outside, keeping their absolute values."""
    magnitude = logits.abs().clamp(min=torch.finfo(logits.dtype).tiny)
    return torch.where(masks, magnitude, -magnitude)
