# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What tiny SAM finds: best-of-three IoU from one point, and recall of its automatic proposals."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cmpf.common.tensors import masks_to_boxes, resize_bilinear
from tools.tiny_training.prompts import all_prompts, decode_points, encode_images
from tools.tiny_training.sam_training import mask_iou
from tools.tiny_training.scenes import INPUT_SIZE, SceneBatch, ScenePool, category_flags, make_batch

GRID = 12  # points a side
LEAST_IOU, LEAST_STABILITY, STABILITY_OFFSET, NMS_IOU = 0.7, 0.7, 1.0, 0.7


@torch.no_grad()
def point_ious(
    sam: nn.Module, batch: SceneBatch, embeddings: Tensor, generator: torch.Generator
) -> tuple[Tensor, ...]:
    """One random point in every segment.

    Returns:
        (N,) best IoU of the three masks, IoU of the mask that SAM itself thinks best, and category.
    """
    prompts = all_prompts(batch, generator=generator)
    logits, predicted = decode_points(sam, embeddings, prompts.points, prompts.image_index)
    at_size = resize_bilinear(logits, (prompts.masks.shape[-2], prompts.masks.shape[-1]))
    iou = mask_iou(at_size, prompts.masks.float())[:, 1:]
    trusted = iou.gather(1, predicted[:, 1:].argmax(dim=1, keepdim=True))[:, 0]
    return iou.max(dim=1).values, trusted, prompts.category_ids


def grid_points(side: int) -> Tensor:
    """(side * side, 2) x, y in the middle of the cells of a grid over the input."""
    line = (torch.arange(side) + 0.5) / side * INPUT_SIZE
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=1)


@torch.no_grad()
def automatic_proposals(sam: nn.Module, embedding: Tensor, size: int) -> Tensor:
    """Masks (M, size, size) bool for a grid of points: the trusted and stable ones, without near-doubles.

    Args:
        embedding: (1, 64, 16, 16).
    """
    from torchvision.ops import nms

    points = grid_points(GRID)
    logits, predicted = decode_points(sam, embedding, points, torch.zeros(len(points), dtype=torch.int64))
    logits, predicted = logits[:, 1:].flatten(0, 1), predicted[:, 1:].flatten()
    certain = (logits > STABILITY_OFFSET).sum(dim=(1, 2))
    possible = (logits > -STABILITY_OFFSET).sum(dim=(1, 2)).clamp(min=1)
    keep = (predicted > LEAST_IOU) & (certain / possible > LEAST_STABILITY)
    masks = resize_bilinear(logits[keep][:, None], (size, size))[:, 0] > 0
    predicted = predicted[keep]
    order = nms(masks_to_boxes(masks), predicted, NMS_IOU)
    return masks[order]


def best_overlap(masks: Tensor, proposals: Tensor) -> NDArray[np.float32]:
    """(N,) highest IoU of each true mask (N, P, P) with any of the proposals (M, P, P)."""
    if len(proposals) == 0:
        return np.zeros(len(masks), np.float32)
    true, found = masks.flatten(1).float(), proposals.flatten(1).float()
    both = true @ found.T
    union = true.sum(dim=1)[:, None] + found.sum(dim=1)[None] - both
    best: NDArray[np.float32] = (both / union).max(dim=1).values.numpy()
    return best


def _proposal_recall(sam: nn.Module, batch: SceneBatch, embeddings: Tensor) -> tuple[Tensor, int]:
    """Best overlap of every segment of the batch with the proposals for its image; number of proposals."""
    overlaps, count = [], 0
    for masks, present, embedding in zip(batch.masks, batch.present, embeddings, strict=True):
        proposals = automatic_proposals(sam, embedding[None], masks.shape[-1])
        overlaps.append(torch.from_numpy(best_overlap(masks[present], proposals)))
        count += len(proposals)
    return torch.cat(overlaps), count


def _rows(name: str, values: Tensor, categories: Tensor) -> dict[str, float]:
    seen, thing = category_flags("seen")[categories], category_flags("isthing")[categories]
    groups = {
        "all": torch.ones_like(seen),
        "things seen": thing & seen,
        "things unseen": thing & ~seen,
        "stuff seen": ~thing & seen,
        "stuff unseen": ~thing & ~seen,
        "things": thing,
    }
    return {f"{name}, {group}": float(values[chosen].mean() * 100) for group, chosen in groups.items()}


def judge_sam(sam: nn.Module, pool: ScenePool, *, seed: int) -> dict[str, float]:
    """Judges SAM on all segments of the scenes, in percent.

    Best-of-three and trusted IoU from one random point each; recall at IoU 0.5 of automatic proposals.
    """
    generator = torch.Generator().manual_seed(seed)
    sam = sam.eval()
    parts, count = [], 0
    for start in range(0, len(pool), 16):
        index = np.arange(start, min(start + 16, len(pool)))
        batch = make_batch(pool, index, np.zeros(len(index), np.bool_))
        with torch.no_grad():
            embeddings = encode_images(sam, batch.images)
        best, trusted, categories = point_ious(sam, batch, embeddings, generator)
        overlap, proposals = _proposal_recall(sam, batch, embeddings)
        parts.append(torch.stack([best, trusted, (overlap >= 0.5).float(), categories.float()]))
        count += proposals
    best, trusted, found, categories = torch.cat(parts, dim=1)
    label = categories.long()
    rows = _rows("IoU best of 3", best, label) | {"IoU trusted, all": float(trusted.mean() * 100)}
    rows |= _rows("found by proposals", found, label)
    return rows | {"proposals an image": count / len(pool)}
