# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""SAM's own masks for a whole image: a grid of point prompts, filtered (paper: OpenSeg Ensemble)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import nms

from cmpf.common.tensors import masks_to_boxes, resize_bilinear
from cmpf.encoders.frozen import FrozenModule
from cmpf.encoders.sam import SAMEncoder

_EIGHT_NEIGHBORS = np.ones((3, 3), dtype=np.int8)


MASKS_AT_ONCE = 16  # at full size; bounds memory


class SAMProposer(FrozenModule):
    """Segments everything in an image, without classes.

    A point grid over the image prompts SAM's mask decoder for three masks a point. Those stay whose
    predicted IoU and stability are high. Of near-duplicates the best stays (box NMS). Small islands and holes
    go, and duplicates that this makes. The largest masks are returned.

    Args:
        encoder: the SAM; may be the one that also makes the model's features.
        points_per_side: side of the square point grid over the image.
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
        self.iou_threshold = iou_threshold
        self.stability_threshold = stability_threshold
        self.nms_threshold = nms_threshold
        self.min_area = min_area
        self.max_masks = max_masks
        self.points_per_batch = points_per_batch
        self.stability_offset = stability_offset
        self.freeze()

    def forward(
        self, embedding_1Shw: Tensor, *, padded: tuple[int, int], unpadded: tuple[int, int]
    ) -> Tensor:
        """Masks of one image, in float32 whatever autocast says.

        Args:
            embedding_1Shw: what `encoder` makes of the padded image.
            padded: (H, W) of the padded image that the encoder squashed to its square.
            unpadded: (H, W) of the image without padding, at its top left.
        Returns:
            (M, H, W) logits at the unpadded size, the largest mask first; M = 0 where nothing was found.
        """
        logits, flipped = self.compact(embedding_1Shw, padded=padded, unpadded=unpadded)
        return full_size_masks(logits, flipped, side=self.encoder.input_size, padded=padded)

    @torch.no_grad()
    def compact(
        self, embedding_1Shw: Tensor, *, padded: tuple[int, int], unpadded: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """The same masks in their smallest exact form, for `full_size_masks`; arguments as of `forward`.

        Returns:
            (M, 4h, 4w) float32 logits as SAM's mask decoder gave them; (M, H, W) bool at the unpadded size, the
            pixels where cleaning turned inside to outside or the other way.
        """
        with torch.autocast(embedding_1Shw.device.type, enabled=False):
            embedding = embedding_1Shw.float()
            points = self.point_grid(padded, unpadded).to(embedding.device)
            found = []
            for batch in _batches(points, self.points_per_batch):
                logits, quality = self.masks_at(embedding, batch)
                found.append(self._good_ones(logits.flatten(0, 1), quality.flatten(), padded, unpadded))
            logits, quality, boxes = (torch.cat(parts) for parts in zip(*found, strict=True))
            logits = logits[nms(boxes, quality, self.nms_threshold)]
            return self._clean_and_largest(logits, padded, unpadded)

    def point_grid(self, padded: tuple[int, int], unpadded: tuple[int, int]) -> Tensor:
        """Centers of a grid over the unpadded image, row by row: (N, 2) x and y in SAM's input."""
        steps = (torch.arange(self.points_per_side) + 0.5) / self.points_per_side
        x = steps * (self.encoder.input_size * unpadded[1] / padded[1])
        y = steps * (self.encoder.input_size * unpadded[0] / padded[0])
        return torch.cartesian_prod(y, x).flip(1)

    @torch.no_grad()
    def masks_at(self, embedding_1Shw: Tensor, points_N2: Tensor) -> tuple[Tensor, Tensor]:
        """Three masks a point, as SAM's mask decoder gives them.

        Args:
            embedding_1Shw: image embedding.
            points_N2: foreground points, x and y in pixels of SAM's square input.
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
        )
        return logits, quality

    def to_image(self, logits_Nhw: Tensor, padded: tuple[int, int], unpadded: tuple[int, int]) -> Tensor:
        """Low-resolution logits at the unpadded size (N, H, W), by way of SAM's input as SAM itself does."""
        return _to_image(logits_Nhw, self.encoder.input_size, padded, unpadded)

    def _good_ones(
        self, logits: Tensor, quality: Tensor, padded: tuple[int, int], unpadded: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Low-resolution logits, predicted IoU and boxes of the masks that pass both thresholds."""
        promising = quality >= self.iou_threshold
        logits, quality = logits[promising], quality[promising]
        passed, boxes = [quality.new_zeros(0, dtype=torch.bool)], [quality.new_zeros(0, 4)]
        for chunk in _batches(logits, MASKS_AT_ONCE):
            large = self.to_image(chunk, padded, unpadded)
            smaller = (large > self.stability_offset).flatten(1).sum(dim=1, dtype=torch.int32)
            larger = (large > -self.stability_offset).flatten(1).sum(dim=1, dtype=torch.int32)
            stable = smaller / larger.clamp(min=1) >= self.stability_threshold
            around = masks_to_boxes(large > 0)
            passed.append(stable & (around[:, 2] > around[:, 0]))  # an empty mask has an empty box
            boxes.append(around)
        keep = torch.cat(passed)
        return logits[keep], quality[keep], torch.cat(boxes)[keep]

    def _clean_and_largest(
        self, logits: Tensor, padded: tuple[int, int], unpadded: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Removes small regions, then masks that became duplicates; returns what `compact` returns."""
        if not len(logits):
            return logits, torch.zeros(0, *unpadded, dtype=torch.bool, device=logits.device)
        cleaned, unchanged, boxes = [], [], []
        for chunk in _batches(logits, MASKS_AT_ONCE):
            for before in (self.to_image(chunk, padded, unpadded) > 0).cpu():
                mask = torch.from_numpy(remove_small_regions(before.numpy(), min_area=self.min_area))
                cleaned.append(mask)
                unchanged.append(bool((mask == before).all()))
                boxes.append(masks_to_boxes(mask[None])[0])
        # Among duplicates those stay that are SAM's own.
        kept = nms(torch.stack(boxes), torch.tensor(unchanged, dtype=torch.float32), self.nms_threshold)
        areas = torch.stack([cleaned[index].sum() for index in kept.tolist()])
        largest = kept[areas.argsort(descending=True, stable=True)[: self.max_masks]]
        masks = torch.stack([cleaned[index] for index in largest.tolist()]).to(logits.device)
        logits = logits[largest.to(logits.device)]
        return logits, masks ^ (self.to_image(logits, padded, unpadded) > 0)


def full_size_masks(logits_Mhw: Tensor, flipped_MHW: Tensor, *, side: int, padded: tuple[int, int]) -> Tensor:
    """Mask logits at the size of the image.

    Args:
        logits_Mhw: float32 logits as SAM's mask decoder gave them.
        flipped_MHW: bool at the wanted size: there the sign is the other than that of the resized logits.
        side: side of SAM's square input.
        padded: (H, W) of the padded image that was squashed to that square.
    Returns:
        (M, H, W) logits.
    """
    if not len(logits_Mhw):
        return logits_Mhw.new_zeros(flipped_MHW.shape)
    large = _to_image(logits_Mhw, side, padded, (flipped_MHW.shape[-2], flipped_MHW.shape[-1]))
    return _with_sign(large, (large > 0) ^ flipped_MHW)


def _to_image(logits_Nhw: Tensor, side: int, padded: tuple[int, int], unpadded: tuple[int, int]) -> Tensor:
    square = resize_bilinear(logits_Nhw[:, None], (side, side))
    return resize_bilinear(square, padded)[:, 0, : unpadded[0], : unpadded[1]]


def _batches(tensor: Tensor, size: int) -> Iterator[Tensor]:
    return (tensor[start : start + size] for start in range(0, len(tensor), size))


def _with_sign(logits: Tensor, masks: Tensor) -> Tensor:
    """Logits that are positive exactly inside the masks; where the sign was other, its amount stays."""
    amount = logits.abs().clamp(min=torch.finfo(logits.dtype).tiny)
    return torch.where(masks, amount, -amount)


def remove_small_regions(mask_HW: NDArray[np.bool_], *, min_area: int) -> NDArray[np.bool_]:
    """Fills holes, then drops islands, of fewer than `min_area` pixels; the same rule as segment-anything's.

    Regions are 8-connected. Background that touches the image's edge is a hole like any other. Where every
    island is small, the largest one stays.

    Args:
        mask_HW: the mask; not changed.
        min_area: in pixels; 0 = keep everything.
    Returns:
        The cleaned mask.
    """
    if min_area == 0 or not mask_HW.any():
        return mask_HW
    # Rows above the mask are all alike, and so are those below it and the columns beside it. One of each,
    # with their number as its weight, makes a small mask cheap and keeps areas and connections exact.
    row_of, first_rows, row_counts = _collapse(np.asarray(mask_HW.any(axis=1)))
    column_of, first_columns, column_counts = _collapse(np.asarray(mask_HW.any(axis=0)))
    mask = mask_HW[np.ix_(first_rows, first_columns)]
    cell_areas = np.outer(row_counts, column_counts)
    labels, areas = _regions(~mask, cell_areas)
    mask = mask | (~mask & (areas < min_area)[labels])
    labels, areas = _regions(mask, cell_areas)
    kept = areas >= min_area
    if not kept[1:].any():
        kept[1 + np.argmax(areas[1:])] = True
    mask = mask & kept[labels]
    cleaned: NDArray[np.bool_] = mask[np.ix_(row_of, column_of)]
    return cleaned


def _collapse(occupied: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Lines before the first and after the last occupied one become a single line each.

    Returns:
        For each line its number afterwards; for each number the first line behind it, and how many there are.
    """
    lines = np.nonzero(occupied)[0]
    clipped = np.clip(np.arange(len(occupied)), lines[0] - 1, lines[-1] + 1)
    _, first, new_number, counts = np.unique(
        clipped, return_index=True, return_inverse=True, return_counts=True
    )
    return new_number, first, counts


def _regions(mask: NDArray[np.bool_], cell_areas: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Number of each cell's region, 0 = outside, and the areas of all regions, that of the outside first."""
    from scipy import ndimage

    labels, count = ndimage.label(mask, structure=_EIGHT_NEIGHBORS)
    return labels, np.bincount(labels.ravel(), weights=cell_areas.ravel(), minlength=count + 1)
